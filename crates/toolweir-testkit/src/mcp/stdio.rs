//! The standard streams of a server process.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rmcp::transport::{StdioReader, StdioWriter, stdio_pipes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Stdin and stdout. To shut the output down is to close stdout, so that a client sees its end while
/// the process lives.
pub(super) struct StandardStreams {
    input: StdioReader,
    output: Option<StdioWriter>,
}

impl StandardStreams {
    /// Those of this process.
    pub(super) fn own() -> Self {
        let (input, output) = stdio_pipes();
        Self {
            input,
            output: Some(output),
        }
    }

    fn output(&mut self) -> io::Result<Pin<&mut StdioWriter>> {
        let output = self.output.as_mut().map(Pin::new);
        output.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for StandardStreams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buffer)
    }
}

impl AsyncWrite for StandardStreams {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output = None;
        Poll::Ready(close_stdout())
    }
}

/// The writer may have a descriptor of its own: descriptor 1 stands beside it and must go too.
#[cfg(unix)]
fn close_stdout() -> io::Result<()> {
    let nothing = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok(())
}

#[cfg(not(unix))]
fn close_stdout() -> io::Result<()> {
    Ok(())
}
