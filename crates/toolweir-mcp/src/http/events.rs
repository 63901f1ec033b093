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
