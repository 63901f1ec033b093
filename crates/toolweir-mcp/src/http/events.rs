//! The events of an answer, of which one may be larger than is read.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::{Stream, stream::BoxStream};
use rmcp::{
    model::{ClientJsonRpcMessage, JsonRpcMessage},
    transport::streamable_http_client::SseError,
};
use serde_json::Value;
use sse_stream::Sse;

use crate::classify::too_large;

pub(super) type Events = BoxStream<'static, Result<Sse, SseError>>;

/// How rmcp begins to say that an event is too large. The type of its error is its own.
/// How the error begins that rmcp's own streams end with.
const TOO_LARGE: &str = "SSE event exceeded the maximum size";

/// The events that answer the request `id`. One that is too large becomes an error for it; rmcp's own would
/// be that the stream broke off, with which nobody knows that the tool was executed.
pub(super) fn of_answer(id: Option<Value>, limit: usize, events: Events) -> Events {
    match id {
        Some(id) => Box::pin(OfAnswer { events, id, limit }),
        None => events,
    }
}

/// The request's id as JSON; only requests are answered.
pub(super) fn id_of(request: &ClientJsonRpcMessage) -> Option<Value> {
    match request {
        JsonRpcMessage::Request(request) => serde_json::to_value(&request.id).ok(),
        _ => None,
    }
}

struct OfAnswer {
    events: Events,
    id: Value,
    limit: usize,
}

impl Stream for OfAnswer {
    type Item = Result<Sse, SseError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.as_mut().poll_next(cx));
        Poll::Ready(
            if matches!(&event, Some(Err(error)) if is_too_large(error)) {
                let message = too_large::message(&self.id, self.limit);
                Some(Ok(Sse::default().data(message)))
            } else {
                event
            },
        )
    }
}

fn is_too_large(error: &SseError) -> bool {
    let SseError::Body(error) = error else {
        return false;
    };
    match error.downcast_ref() {
        Some(error) => matches!(error, LimitedError::TooLarge),
        None => error.to_string().starts_with(TOO_LARGE),
    }
}

/// The bytes of events, until one of the events is too large.
pub(super) struct Limited<S> {
    /// None after an error.
    bytes: Option<S>,
    limit: usize,
    event: Event,
}

impl<S> Limited<S> {
    pub(super) fn new(bytes: S, limit: usize) -> Self {
        Self {
            bytes: Some(bytes),
            limit,
            event: Event::default(),
        }
    }
}

impl<S, B> Stream for Limited<S>
where
    S: Stream<Item = reqwest::Result<B>> + Unpin,
    B: AsRef<[u8]>,
{
    type Item = Result<B, LimitedError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(bytes) = &mut this.bytes else {
            return Poll::Ready(None);
        };
        let Some(bytes) = ready!(Pin::new(bytes).poll_next(cx)) else {
            return Poll::Ready(None);
        };
        let bytes = bytes.map_err(LimitedError::Read).and_then(|bytes| {
            let mut all = bytes.as_ref().iter();
            match all.all(|byte| this.event.size_with(*byte) <= this.limit) {
                true => Ok(bytes),
                false => Err(LimitedError::TooLarge),
            }
        });
        if bytes.is_err() {
            this.bytes = None;
        }
        Poll::Ready(Some(bytes))
    }
}

#[derive(Debug)]
pub(super) enum LimitedError {
    Read(reqwest::Error),
    TooLarge,
}

impl fmt::Display for LimitedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read(_) => "the answer cannot be read",
            Self::TooLarge => "an event is too large",
        })
    }
}

impl Error for LimitedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::TooLarge => None,
        }
    }
}

/// The event that is being read. Comments are no part of one: servers send them to be heard of.
#[derive(Default)]
struct Event {
    /// What its lines have, with their ends.
    lines: usize,
    /// What the line has that is not over.
    line: usize,
    is_comment: bool,
    last: u8,
}

impl Event {
    /// What it has with one more byte. A line ends with CR, LF or both, and an event with an empty line.
    const fn size_with(&mut self, byte: u8) -> usize {
        let is_half = self.last == b'\r' && byte == b'\n';
        self.last = byte;
        match byte {
            b'\n' if is_half => {}
            b'\r' | b'\n' => self.end_line(),
            _ => {
                self.is_comment |= self.line == 0 && byte == b':';
                self.line += 1;
            }
        }
        self.lines + self.line
    }

    const fn end_line(&mut self) {
        match self.line {
            0 => self.lines = 0,
            _ if self.is_comment => {}
            length => self.lines += length + 1,
        }
        self.line = 0;
        self.is_comment = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, future::poll_fn};

    use proptest::{collection::vec, prelude::*};
    use rmcp::{
        model::ServerJsonRpcMessage,
        transport::streamable_http_client::{
            StreamableHttpClient as _, StreamableHttpPostResponse, StreamableHttpResponseLimits,
        },
    };
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{classify::tests::quick, http::HttpClient};

    /// Asks a server that answers with these events, of which none may have more than 1000 bytes.
    async fn events(message: Value, answer: String) -> Vec<Result<Sse, SseError>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let head =
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
        });
        let mut limits = StreamableHttpResponseLimits::default();
        limits.max_sse_event_size = 1000;
        let client = HttpClient::plain(reqwest::Client::new());
        let message = serde_json::from_value(message).unwrap();
        let answer = client.post_message_with_response_limits(
            url.into(),
            message,
            None,
            None,
            HashMap::new(),
            limits,
        );
        let StreamableHttpPostResponse::Sse(mut events, _) = answer.await.unwrap() else {
            panic!("events are asked for");
        };
        let mut all = Vec::new();
        while let Some(event) = poll_fn(|cx| events.as_mut().poll_next(cx)).await {
            all.push(event);
        }
        server.await.unwrap();
        all
    }

    #[tokio::test]
    async fn an_event_that_is_too_large_becomes_an_error_for_its_call() {
        // A call is posted by ours, and all else by rmcp.
        for (method, params) in [
            ("ping", json!({})),
            ("tools/call", json!({ "name": "play" })),
        ] {
            let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
            let answer = format!("data: small\n\ndata: {}\n\n", "x".repeat(2000));
            // Several at once: the pieces that arrive are looked at, and one holds both.
            let events = events(request, answer).await;
            let last = events.last().unwrap().as_ref().unwrap();
            let message: ServerJsonRpcMessage =
                serde_json::from_str(last.data.as_deref().unwrap()).unwrap();
            let JsonRpcMessage::Error(error) = message else {
                panic!("an error takes its place: {method}");
            };
            assert_eq!(serde_json::to_value(error.id).unwrap(), json!(7));
            assert_eq!(too_large::limit_in(&error.error), Some(1000));
        }
    }

    /// Whether all of these bytes come through, in such pieces.
    async fn comes_through(text: &str, sizes: &[usize], limit: usize) -> bool {
        let (mut pieces, mut rest) = (Vec::new(), text.as_bytes());
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(Ok(piece.to_vec()));
            rest = after;
        }
        let mut limited = Limited::new(futures_util::stream::iter(pieces), limit);
        let mut read = Vec::new();
        while let Some(piece) = poll_fn(|cx| Pin::new(&mut limited).poll_next(cx)).await {
            match piece {
                Ok(piece) => read.extend(piece),
                Err(error) => {
                    assert!(matches!(error, LimitedError::TooLarge), "{error}");
                    let after = poll_fn(|cx| Pin::new(&mut limited).poll_next(cx)).await;
                    assert!(after.is_none());
                    return false;
                }
            }
        }
        assert_eq!(read, text.as_bytes());
        true
    }

    /// The same, said in one go.
    fn is_within(text: &str, limit: usize) -> bool {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines = 0;
        for line in text.split_inclusive('\n') {
            let (line, ends) = match line.strip_suffix('\n') {
                Some(line) => (line, true),
                None => (line, false),
            };
            if lines + line.len() > limit {
                return false;
            }
            lines = match line {
                "" => 0,
                line if line.starts_with(':') => lines,
                line => lines + line.len() + usize::from(ends),
            };
            if lines > limit {
                return false;
            }
        }
        true
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn in_whatever_pieces_it_comes_no_event_is_too_large(
            text in "[a:\r\n]{0,60}",
            sizes in vec(1..9_usize, 1..4),
            limit in 1..20_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let comes = runtime.block_on(comes_through(&text, &sizes, limit));
            prop_assert_eq!(comes, is_within(&text, limit));
        }
    }

    #[tokio::test]
    async fn keeping_a_stream_open_makes_no_event_large() {
        assert!(comes_through(&": still here\n".repeat(1000), &[100], 20).await);
    }

    #[tokio::test]
    async fn other_events_are_as_they_were_sent() {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" });
        let events = events(request, "data: a\n\ndata: b\n\n".into()).await;
        let data = events.into_iter().map(|event| event.unwrap().data.unwrap());
        assert_eq!(data.collect::<Vec<_>>(), ["a", "b"]);
    }

    #[tokio::test]
    async fn who_asked_nothing_is_answered_nothing() {
        let notification = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let events = events(notification, format!("data: {}\n\n", "x".repeat(2000))).await;
        assert!(events.last().unwrap().is_err());
    }
}
