//! The TCP connections of a server over HTTP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::server::Shared;
use crate::mcp::link::{Link, LinkStream};

/// After an `accept` that failed, which it does when there are too many open files.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A TCP connection that is reset when it is dropped in use, as the kernel does for a process that
/// has ended with something unread.
struct Tcp {
    stream: TcpStream,
    shut_down: bool,
}

impl Drop for Tcp {
    fn drop(&mut self) {
        if !self.shut_down {
            // If it cannot be reset it is closed, which ends it as well.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts connections that can be cut.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) server: Weak<Shared>,
}

impl Listener for Door {
    type Io = LinkStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LinkStream, SocketAddr) {
        loop {
            let accepted = self.listener.accept().await;
            let (Ok((stream, from)), Some(server)) = (accepted, self.server.upgrade()) else {
                sleep(TRY_AGAIN).await;
                continue;
            };
            // Without it an answer waits for the client's acknowledgement, 40 milliseconds.
            let _ = stream.set_nodelay(true);
            let tcp = Tcp {
                stream,
                shut_down: false,
            };
            let link = server.accepted(tcp);
            return (link.stream(), from);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The connection that a request came by.
#[derive(Debug, Clone)]
pub(super) struct Came(pub(super) Arc<Link>);

impl Connected<IncomingStream<'_, Door>> for Came {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(Arc::clone(stream.io().link()))
    }
}
