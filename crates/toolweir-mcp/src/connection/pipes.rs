//! The transport over a server's pipes: one message a line.
//!
//! rmcp's own writes each message in a task that it starts for it. Here it is written at once where the
//! pipe takes it, so a request is on its way before another task has its turn.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use rmcp::{
    RoleClient,
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    transport::Transport,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
};

use super::lines::{Found, Lines, ROOM};
use crate::{classify::too_large, hostile::Shown, message};

/// Messages to a server's input, and from its output.
pub(super) struct Pipes<R, W> {
    server: Arc<str>,
    lines: Lines<R>,
    most_bytes: usize,
    /// Whether it was said that there are lines that are no messages.
    told: bool,
    output: Arc<Mutex<Option<Output<W>>>>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Pipes<R, W> {
    /// A line that is read may have up to `most_bytes`.
    pub(super) fn new(server: &Arc<str>, read: R, write: W, most_bytes: usize) -> Self {
        let output = Output {
            write,
            unsent: Vec::new(),
            sent: 0,
        };
        Self {
            server: server.clone(),
            lines: Lines::new(read, most_bytes),
            most_bytes,
            told: false,
            output: Arc::new(Mutex::new(Some(output))),
        }
    }

    async fn next(&mut self) -> io::Result<Option<ServerJsonRpcMessage>> {
        loop {
            match poll_fn(|cx| self.lines.poll_next(cx)).await? {
                Found::End => return Ok(None),
                Found::TooLong(id) => {
                    if let Ok(id) = serde_json::from_value(id) {
                        let error = too_large::error(self.most_bytes);
                        return Ok(Some(ServerJsonRpcMessage::error(error, Some(id))));
                    }
                }
                Found::Line => match message::read(self.lines.text()) {
                    Ok(message) => return Ok(Some(message)),
                    Err(_) if self.lines.text().trim_ascii().is_empty() => {}
                    Err(error) => self.pass_over(&error),
                },
            }
        }
    }

    /// A line that is no message, as of programs that log to their output.
    fn pass_over(&mut self, error: &serde_json::Error) {
        let (server, error) = (&*self.server, error.to_string());
        let error = Shown(&error);
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!(server, %error, "passed over a line that is no message");
        } else {
            tracing::warn!(
                server,
                %error,
                "the MCP server writes lines to its output that are no messages; it should log to stderr"
            );
        }
    }
}

impl<R, W> Transport<RoleClient> for Pipes<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: ClientJsonRpcMessage,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let output = self.output.clone();
        let mut line = serde_json::to_vec(&message);
        if let Ok(line) = &mut line {
            line.push(b'\n');
        }
        let at_once = match &mut line {
            Ok(line) => send_at_once(&output, line),
            Err(_) => Poll::Pending,
        };
        async move {
            match at_once {
                Poll::Ready(sent) => sent,
                Poll::Pending => send(&output, &line?).await,
            }
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        let server = &*self.server.clone();
        match self.next().await {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(server, %error, "the output of the MCP server cannot be read");
                None
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        drop(self.output.lock().await.take());
        Ok(())
    }
}

/// Sends a line if nobody else is sending; what is left is sent with what comes next.
fn send_at_once<W: AsyncWrite + Unpin>(
    output: &Mutex<Option<Output<W>>>,
    line: &mut Vec<u8>,
) -> Poll<io::Result<()>> {
    let Ok(mut output) = output.try_lock() else {
        return Poll::Pending;
    };
    let Some(output) = output.as_mut() else {
        return Poll::Ready(Err(closed()));
    };
    output.unsent.append(line);
    output.poll_send(&mut Context::from_waker(Waker::noop()))
}

async fn send<W: AsyncWrite + Unpin>(
    output: &Mutex<Option<Output<W>>>,
    line: &[u8],
) -> io::Result<()> {
    let mut output = output.lock().await;
    let output = output.as_mut().ok_or_else(closed)?;
    output.unsent.extend_from_slice(line);
    poll_fn(|cx| output.poll_send(cx)).await
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the pipe is closed")
}

/// A server's input, and what it has not taken yet.
struct Output<W> {
    write: W,
    unsent: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    /// Who gives up leaves the rest of a line to whoever sends next: no line is cut.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = ready!(self.poll_write(cx));
        // After an error nothing follows it, and what cannot be sent is not kept.
        self.unsent.clear();
        self.unsent.shrink_to(ROOM);
        self.sent = 0;
        Poll::Ready(sent)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let write = Pin::new(&mut self.write);
            match ready!(write.poll_write(cx, &self.unsent[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        Pin::new(&mut self.write).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::{JsonRpcMessage, RequestId};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, empty, sink};

    use super::*;

    fn ping(id: u32) -> ClientJsonRpcMessage {
        serde_json::from_value(json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })).unwrap()
    }

    fn line(id: u32) -> String {
        format!("{}\n", serde_json::to_string(&ping(id)).unwrap())
    }

    /// With what the other side reads of it.
    fn with_input(room: usize) -> (Pipes<tokio::io::Empty, DuplexStream>, DuplexStream) {
        let (input, read) = duplex(room);
        (Pipes::new(&"music".into(), empty(), input, 1000), read)
    }

    async fn received(output: &str) -> Vec<ServerJsonRpcMessage> {
        let (mut write, read) = duplex(64);
        let mut pipes = Pipes::new(&"music".into(), read, sink(), 100);
        let (all, ()) = tokio::join!(
            async {
                let mut all = Vec::new();
                while let Some(message) = pipes.receive().await {
                    all.push(message);
                }
                all
            },
            async move { write.write_all(output.as_bytes()).await.unwrap() },
        );
        all
    }

    async fn read_all(mut read: DuplexStream) -> String {
        let mut all = String::new();
        read.read_to_string(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn a_message_is_sent_before_anybody_waits_for_that() {
        let (mut pipes, mut read) = with_input(1000);
        let sent = pipes.send(ping(1));
        let mut written = vec![0; line(1).len()];
        read.read_exact(&mut written).await.unwrap();
        assert_eq!(written, line(1).as_bytes());
        sent.await.unwrap();
    }

    #[tokio::test]
    async fn what_the_pipe_does_not_take_waits_and_no_line_is_cut() {
        // Less than a line.
        let (mut pipes, read) = with_input(10);
        let (first, second) = (pipes.send(ping(1)), pipes.send(ping(2)));
        // Nobody waits for the first, of which a part is sent.
        drop(first);
        let (all, sent) = tokio::join!(read_all(read), async move {
            second.await?;
            pipes.send(ping(3)).await?;
            pipes.close().await
        });
        sent.unwrap();
        assert_eq!(all, [line(1), line(2), line(3)].concat());
    }

    #[tokio::test]
    async fn many_senders_send_whole_lines() {
        let (mut pipes, read) = with_input(10);
        let mut sends = Vec::new();
        for id in 0..50 {
            sends.push(tokio::spawn(pipes.send(ping(id))));
        }
        let (all, ()) = tokio::join!(read_all(read), async move {
            for sent in sends {
                sent.await.unwrap().unwrap();
            }
            pipes.close().await.unwrap();
        });
        let mut lines: Vec<_> = all.split_inclusive('\n').map(String::from).collect();
        let mut expected: Vec<_> = (0..50).map(line).collect();
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);
    }

    #[tokio::test]
    async fn after_the_end_nothing_is_sent_or_kept() {
        let (mut pipes, read) = with_input(10);
        drop(read);
        for _ in 0..3 {
            let broken = pipes.send(ping(1)).await.unwrap_err();
            assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
            let output = pipes.output.lock().await;
            assert!(output.as_ref().unwrap().unsent.is_empty());
        }
        pipes.close().await.unwrap();
        let closed = pipes.send(ping(1)).await.unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::NotConnected);
    }

    #[tokio::test]
    async fn lines_that_are_no_messages_are_passed_over() {
        let answer = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
        let banner = "Welcome!\n\r\n{\"level\":\"info\"}\n123\n";
        let all = received(&format!("{banner}{answer}\r\n{banner}{answer}\n")).await;
        assert_eq!(all.len(), 2);
        for message in all {
            assert!(
                matches!(&message, JsonRpcMessage::Response(answer) if answer.id == RequestId::Number(7)),
                "{message:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_call_whose_answer_is_too_long_has_an_error() {
        let long = "x".repeat(5000);
        let all = received(&format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"{long}\"}}\n"
        ))
        .await;
        let [JsonRpcMessage::Error(error)] = &all[..] else {
            panic!("one error: {all:?}");
        };
        assert_eq!(error.id, Some(RequestId::Number(7)));
        assert_eq!(too_large::limit_in(&error.error), Some(100));
    }
}
