//! The events of an answer, of which one may be larger than is read.

use std::{
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
        let too_large = matches!(
            &event,
            Some(Err(SseError::Body(error))) if error.to_string().starts_with(TOO_LARGE)
        );
        Poll::Ready(if too_large {
            let message = too_large::message(&self.id, self.limit);
            Some(Ok(Sse::default().data(message)))
        } else {
            event
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, future::poll_fn};

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
    use crate::http::HttpClient;

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
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" });
        let answer = format!("data: small\n\ndata: {}\n\n", "x".repeat(2000));
        // Several at once: rmcp looks at the pieces that arrive, and one holds both.
        let events = events(request, answer).await;
        let last = events.last().unwrap().as_ref().unwrap();
        let message: ServerJsonRpcMessage =
            serde_json::from_str(last.data.as_deref().unwrap()).unwrap();
        let JsonRpcMessage::Error(error) = message else {
            panic!("an error takes its place");
        };
        assert_eq!(serde_json::to_value(error.id).unwrap(), json!(7));
        assert_eq!(too_large::limit_in(&error.error), Some(1000));
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
