//! What a request meets before the server.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use super::fault::{HttpBody, HttpFault, answer};
use super::server::Shared;
use super::tcp::Came;

/// Enough for the head of an answer. If it is not there by then, this is a reset.
const BREAKS_AFTER: Duration = Duration::from_millis(100);

/// What is looked at in a message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    id: Value,
    method: String,
}

pub(super) async fn front(
    State(server): State<Arc<Shared>>,
    ConnectInfo(came): ConnectInfo<Came>,
    request: Request,
) -> Response {
    let id = Value::Null;
    if !server.admits(bearer(request.headers())) {
        let challenge = Some("Bearer error=\"invalid_token\"");
        return answer(401, None, challenge, &HttpBody::Empty, &id);
    }
    if request.method() != Method::POST {
        return server.answer(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return answer(400, None, None, &HttpBody::Empty, &id);
    };
    let message: Message = serde_json::from_slice(&body).unwrap_or_default();
    match server.next_fault(message.method == "tools/call") {
        None => {}
        Some(HttpFault::Status {
            status,
            retry_after,
            www_authenticate,
            body,
        }) => {
            let (after, challenge) = (retry_after.as_deref(), www_authenticate.as_deref());
            return answer(status, after, challenge, &body, &message.id);
        }
        Some(HttpFault::Reset) => {
            came.0.cut();
            return pending().await;
        }
        Some(HttpFault::Hang) => return pending().await,
        Some(HttpFault::SessionGone) => server.forget_sessions(),
        Some(HttpFault::Break) => {
            tokio::spawn(async move {
                sleep(BREAKS_AFTER).await;
                came.0.cut();
            });
        }
    }
    server
        .answer(Request::from_parts(parts, Body::from(body)))
        .await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}
