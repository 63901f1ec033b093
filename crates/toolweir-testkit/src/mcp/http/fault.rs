//! What a POST is answered with in place of what the server would say.

use std::collections::VecDeque;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::Response;
use serde_json::{Value, json};

/// What happens to a POST. What it carries never reaches the server behind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpFault {
    /// An answer with a status.
    Status {
        /// Such as 503.
        status: u16,
        /// The header `Retry-After`, as it is.
        retry_after: Option<String>,
        /// The header `WWW-Authenticate`, as it is.
        www_authenticate: Option<String>,
        /// What comes after the headers.
        body: HttpBody,
    },
    /// The request is read, and its TCP connection reset.
    Reset,
    /// The server takes the request; its TCP connection is reset when the answer has begun.
    Break,
    /// The request is read and never answered.
    Hang,
    /// The server forgets all sessions, and then answers as it does: 404, if the POST is of one.
    SessionGone,
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpBody {
    /// None.
    Empty,
    /// A plain text.
    Text(String),
    /// A JSON-RPC error with this code, for the request's id.
    JsonRpcError {
        /// Its code.
        code: i32,
    },
}

impl HttpFault {
    /// An answer with this status and a line of text.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status {
            status,
            retry_after: None,
            www_authenticate: None,
            body: HttpBody::Text("an answer, as told".to_owned()),
        }
    }

    /// With this header, if it is an answer with a status.
    #[must_use]
    pub fn with_retry_after(mut self, value: impl Into<String>) -> Self {
        if let Self::Status { retry_after, .. } = &mut self {
            *retry_after = Some(value.into());
        }
        self
    }

    /// With this header, if it is an answer with a status.
    #[must_use]
    pub fn with_www_authenticate(mut self, value: impl Into<String>) -> Self {
        if let Self::Status {
            www_authenticate, ..
        } = &mut self
        {
            *www_authenticate = Some(value.into());
        }
        self
    }

    /// With this body, if it is an answer with a status.
    #[must_use]
    pub fn with_body(mut self, with: HttpBody) -> Self {
        if let Self::Status { body, .. } = &mut self {
            *body = with;
        }
        self
    }
}

/// To which POSTs something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posts {
    calls_only: bool,
    left: Option<usize>,
}

impl Posts {
    /// To every one, until the faults are cleared.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            calls_only: false,
            left: None,
        }
    }

    /// To so many, from now on.
    #[must_use]
    pub const fn next(count: usize) -> Self {
        Self {
            calls_only: false,
            left: Some(count),
        }
    }

    /// To every `tools/call`, until the faults are cleared.
    #[must_use]
    pub const fn calls() -> Self {
        Self {
            calls_only: true,
            left: None,
        }
    }

    /// To so many `tools/call`, from now on.
    #[must_use]
    pub const fn next_calls(count: usize) -> Self {
        Self {
            calls_only: true,
            left: Some(count),
        }
    }
}

/// The faults that are yet to happen, the first of them first.
#[derive(Debug, Default)]
pub(super) struct Faults {
    waiting: VecDeque<(Posts, HttpFault)>,
    pub(super) happened: u64,
}

impl Faults {
    pub(super) fn add(&mut self, posts: Posts, fault: HttpFault) {
        self.waiting.push_back((posts, fault));
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn next(&mut self, is_call: bool) -> Option<HttpFault> {
        self.waiting.retain(|(posts, _)| posts.left != Some(0));
        let mut waiting = self.waiting.iter_mut();
        let (posts, fault) = waiting.find(|(posts, _)| is_call || !posts.calls_only)?;
        if let Some(left) = &mut posts.left {
            *left -= 1;
        }
        self.happened += 1;
        Some(fault.clone())
    }
}

/// The answer with a status, for a message with this id.
pub(super) fn answer(
    status: u16,
    retry_after: Option<&str>,
    www_authenticate: Option<&str>,
    body: &HttpBody,
    id: &Value,
) -> Response {
    let mut answer = Response::builder().status(status);
    for (name, value) in [
        (RETRY_AFTER, retry_after),
        (WWW_AUTHENTICATE, www_authenticate),
    ] {
        if let Some(value) = value {
            answer = answer.header(name, value);
        }
    }
    let answer = match body {
        HttpBody::Empty => answer.body(Body::empty()),
        HttpBody::Text(text) => answer
            .header(CONTENT_TYPE, "text/plain")
            .body(text.clone().into()),
        HttpBody::JsonRpcError { code } => {
            let error = json!({ "code": code, "message": "an error, as told" });
            let message = json!({ "jsonrpc": "2.0", "id": id, "error": error });
            answer
                .header(CONTENT_TYPE, "application/json")
                .body(message.to_string().into())
        }
    };
    answer.expect("a test sets a status and headers that can be sent")
}
