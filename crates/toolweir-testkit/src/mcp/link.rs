//! The server's end of a connection, which can be cut at any moment.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::state::State;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, as those see it who may end it.
pub(super) struct Link {
    wire: Mutex<Wire>,
    end: watch::Sender<End>,
    state: Arc<State>,
}

/// How far a link is from whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Open,
    /// The client sends nothing more. What it is sent may still arrive.
    HungUp,
    /// Nothing passes in either direction.
    Cut,
}

struct Wire {
    io: Option<Box<dyn Duplex>>,
    output: Output,
    /// The server has written a part of a line.
    mid_line: bool,
    // A cut end does not wake who waits on it, so the link does.
    reader: Option<Waker>,
    writer: Option<Waker>,
    injector: Option<Waker>,
}

/// What becomes of what the server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Passes,
    /// It waits, while something else is written.
    Waits,
    /// It is lost, and nobody tells the server.
    Lost,
}

/// What follows what was put into the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Silence,
    /// The client sees the end of the stream.
    End,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("end", &*self.end.borrow())
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(io: impl Duplex + 'static, state: Arc<State>) -> Arc<Self> {
        state.record(|stats| {
            stats.connections += 1;
            stats.open_connections += 1;
        });
        Arc::new(Self {
            wire: Mutex::new(Wire {
                io: Some(Box::new(io)),
                output: Output::Passes,
                mid_line: false,
                reader: None,
                writer: None,
                injector: None,
            }),
            end: watch::Sender::new(End::Open),
            state,
        })
    }

    /// What the server reads and writes. When it is dropped the link is cut.
    pub(super) fn stream(self: &Arc<Self>) -> LinkStream {
        LinkStream(Arc::clone(self))
    }

    /// Drops the connection as the end of a process does: at once, with nothing said.
    pub(super) fn cut(&self) {
        let (io, wakers) = {
            let mut wire = self.wire();
            let wakers = [wire.reader.take(), wire.writer.take(), wire.injector.take()];
            (wire.io.take(), wakers)
        };
        if io.is_none() {
            return;
        }
        drop(io);
        self.end.send_replace(End::Cut);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.state.record(|stats| stats.open_connections -= 1);
    }

    /// Until the link is in this state or beyond it.
    pub(super) async fn until(&self, state: End) {
        let mut end = self.end.subscribe();
        // The sender is ours, so this cannot fail.
        let _ = end.wait_for(|end| *end >= state).await;
    }

    /// Reads what comes and does nothing with it, until the link is cut or the client hangs up.
    pub(super) async fn ignore_input(&self) {
        let mut scratch = [0_u8; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = poll_fn(|cx| self.poll_read(cx, &mut buffer)).await;
            if read.is_err() || buffer.filled().is_empty() {
                return;
            }
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = {
            let mut wire = self.wire();
            let Some(io) = wire.io.as_mut() else {
                return Poll::Ready(Ok(()));
            };
            let read = Pin::new(io).poll_read(cx, buffer);
            if read.is_pending() {
                wire.reader = Some(cx.waker().clone());
            }
            read
        };
        let ended = match &read {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => buffer.filled().len() == before && buffer.remaining() > 0,
            Poll::Ready(Err(_)) => true,
        };
        if ended {
            self.end.send_modify(|end| *end = (*end).max(End::HungUp));
        }
        read
    }

    /// Writes something between two lines of the server's, whole, whoever waits for it meanwhile.
    ///
    /// It goes on when nobody waits: half of it would be another fault than the one that was meant.
    pub(super) async fn inject(self: &Arc<Self>, bytes: Vec<u8>, then: Then) {
        let link = Arc::clone(self);
        let injection = tokio::spawn(async move {
            let (mut left, mut begun) = (&*bytes, false);
            poll_fn(|cx| link.poll_inject(cx, &mut left, &mut begun, then)).await;
        });
        // It neither panics nor is it cancelled, but with the runtime.
        let _ = injection.await;
    }

    fn poll_inject(
        &self,
        cx: &mut Context<'_>,
        left: &mut &[u8],
        begun: &mut bool,
        then: Then,
    ) -> Poll<()> {
        let mut wire = self.wire();
        if !*begun && (wire.mid_line || wire.output == Output::Waits) {
            wire.injector = Some(cx.waker().clone());
            return Poll::Pending;
        }
        *begun = true;
        let Wire { io: Some(io), .. } = &mut *wire else {
            return Poll::Ready(());
        };
        if poll_write_all(io, cx, left, then).is_pending() {
            wire.output = Output::Waits;
            wire.injector = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wire.output = match then {
            Then::GoOn => Output::Passes,
            Then::Silence | Then::End => Output::Lost,
        };
        let writer = wire.writer.take();
        drop(wire);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    fn poll_output<T>(
        &self,
        cx: &mut Context<'_>,
        lost: T,
        act: impl FnOnce(Pin<&mut Box<dyn Duplex>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut wire = self.wire();
        if wire.output == Output::Waits {
            wire.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let output = wire.output;
        let Some(io) = wire.io.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if output == Output::Lost {
            return Poll::Ready(Ok(lost));
        }
        let done = act(Pin::new(io), cx);
        if done.is_pending() {
            wire.writer = Some(cx.waker().clone());
        }
        done
    }

    fn poll_line(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_output(cx, bytes.len(), |io, cx| io.poll_write(cx, bytes));
        let Poll::Ready(Ok(length)) = written else {
            return written;
        };
        let injector = {
            let mut wire = self.wire();
            if let Some(last) = bytes[..length].last() {
                wire.mid_line = *last != b'\n';
            }
            if wire.mid_line {
                None
            } else {
                wire.injector.take()
            }
        };
        injector.into_iter().for_each(Waker::wake);
        written
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Errors are passed over: a client that is gone reads nothing.
fn poll_write_all(
    io: &mut Box<dyn Duplex>,
    cx: &mut Context<'_>,
    left: &mut &[u8],
    then: Then,
) -> Poll<()> {
    while !left.is_empty() {
        match ready!(Pin::new(&mut *io).poll_write(cx, left)) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(written) => *left = &left[written..],
        }
    }
    let _ = ready!(Pin::new(&mut *io).poll_flush(cx));
    if then == Then::End {
        let _ = ready!(Pin::new(io).poll_shutdown(cx));
    }
    Poll::Ready(())
}

/// The bytes of a link.
pub(super) struct LinkStream(Arc<Link>);

#[cfg(feature = "http")]
impl LinkStream {
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buffer)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_line(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_output(cx, (), AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_output(cx, (), AsyncWrite::poll_shutdown)
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.0.cut();
    }
}
