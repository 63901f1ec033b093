//! A tool's call, posted, and its answer read.
//!
//! rmcp's own client does what is asked once a connection: its handshake, its streams, its end. It reads
//! each answer as whatever it may be, in turn, which costs more than all of the rest here.

use std::sync::Arc;

use ::http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use reqwest::{Client, Response};
use rmcp::{
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcMessage},
    transport::{
        common::http_header::{EVENT_STREAM_MIME_TYPE, HEADER_SESSION_ID, JSON_MIME_TYPE},
        streamable_http_client::{
            AuthRequiredError, HttpStatusError, InsufficientScopeError, StreamableHttpError,
            StreamableHttpPostResponse, StreamableHttpResponseLimits,
        },
    },
};
use sse_stream::SseStream;

use super::{
    client::{Headers, HttpError},
    events::Limited,
};
use crate::{hostile::Quoted, message};

/// Both kinds of answers, as the protocol wants it.
const ANSWERS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static(JSON_MIME_TYPE);
/// The session is settled by the handshake.
const NO_SESSION: Option<String> = None;

/// Whether it is the call of a tool.
pub(super) const fn is_call(message: &ClientJsonRpcMessage) -> bool {
    matches!(
        message,
        JsonRpcMessage::Request(request)
            if matches!(request.request, ClientRequest::CallToolRequest(_))
    )
}

/// Posts the call of a tool.
pub(super) async fn post(
    client: &Client,
    url: &str,
    call: &ClientJsonRpcMessage,
    session: Option<Arc<str>>,
    token: Option<String>,
    headers: Headers,
    limits: StreamableHttpResponseLimits,
) -> Result<StreamableHttpPostResponse, HttpError> {
    let mut request = client.post(url).header(ACCEPT, ANSWERS);
    if !headers.contains_key(&CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, JSON);
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(session) = &session {
        request = request.header(HEADER_SESSION_ID, &**session);
    }
    // The handshake has found none among them that are not allowed.
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.body(serde_json::to_vec(call)?).send().await?;
    answer(response, session.is_some(), limits).await
}

async fn answer(
    response: Response,
    has_session: bool,
    limits: StreamableHttpResponseLimits,
) -> Result<StreamableHttpPostResponse, HttpError> {
    let status = response.status();
    if !status.is_success() {
        return failed(response, has_session, limits).await;
    }
    if matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
        return Ok(StreamableHttpPostResponse::Accepted);
    }
    if is(response.headers(), EVENT_STREAM_MIME_TYPE) {
        let bytes = Limited::new(response.bytes_stream(), limits.max_sse_event_size);
        let events = Box::pin(SseStream::from_bytes_stream(bytes));
        return Ok(StreamableHttpPostResponse::Sse(events, NO_SESSION));
    }
    if !is(response.headers(), JSON_MIME_TYPE) {
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
        return Err(StreamableHttpError::UnexpectedContentType(kind));
    }
    let body = body(response, limits.max_json_response_size).await?;
    match message::read(&body) {
        Ok(message) => Ok(StreamableHttpPostResponse::Json(message, NO_SESSION)),
        Err(error) => {
            let text = String::from_utf8_lossy(&body);
            let said = format!("the answer is no message: {error}: {}", Quoted(&text));
            Err(StreamableHttpError::UnexpectedServerResponse(said.into()))
        }
    }
}

/// What a status says that is none of success, unless the body has an error of the protocol to say more.
async fn failed(
    mut response: Response,
    has_session: bool,
    limits: StreamableHttpResponseLimits,
) -> Result<StreamableHttpPostResponse, HttpError> {
    let status = response.status();
    if status == StatusCode::NOT_FOUND && has_session {
        return Err(StreamableHttpError::SessionExpired);
    }
    if let Some(refused) = challenged(status, response.headers()) {
        return Err(refused);
    }
    let is_busy = status == StatusCode::TOO_MANY_REQUESTS;
    let is_json = is(response.headers(), JSON_MIME_TYPE);
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok());
    let bare = HttpStatusError::new(status.as_u16(), retry_after.map(String::from));
    if is_busy || status.is_server_error() && !is_json {
        return Err(bare.into());
    }
    let may_explain = is_json && !is_refusal(status);
    let most = match may_explain {
        true => limits.max_json_response_size,
        false => limits.max_error_response_size,
    };
    let body = beginning(&mut response, most).await;
    if may_explain && let Ok(error @ JsonRpcMessage::Error(_)) = message::read(&body) {
        return Ok(StreamableHttpPostResponse::Json(error, NO_SESSION));
    }
    if status.is_server_error() {
        return Err(bare.into());
    }
    let shown = &body[..body.len().min(limits.max_error_response_size)];
    let said = format!("HTTP {status}: {}", String::from_utf8_lossy(shown));
    Err(StreamableHttpError::UnexpectedServerResponse(said.into()))
}

/// Whether the credential was refused. Such an answer keeps its status, whatever its body says.
const fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn challenged(status: StatusCode, headers: &HeaderMap) -> Option<HttpError> {
    let challenge = headers.get(WWW_AUTHENTICATE)?;
    let challenge = String::from_utf8_lossy(challenge.as_bytes()).into_owned();
    match status {
        StatusCode::UNAUTHORIZED => Some(StreamableHttpError::AuthRequired(
            AuthRequiredError::new(challenge),
        )),
        StatusCode::FORBIDDEN => Some(StreamableHttpError::InsufficientScope(
            InsufficientScopeError::new(challenge, None),
        )),
        _ => None,
    }
}

/// Whether the content is of this type, whatever the type's parameters.
fn is(headers: &HeaderMap, media_type: &str) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(media_type))
}

async fn body(mut response: Response, most: usize) -> Result<Vec<u8>, HttpError> {
    let too_large = || StreamableHttpError::ResponseBodyTooLarge { max_size: most };
    if response
        .content_length()
        .is_some_and(|length| length > most as u64)
    {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > most - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// As much of the body as there is and may be read.
async fn beginning(response: &mut Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < most
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]);
    }
    body
}

#[cfg(test)]
mod tests {
    use std::{any::TypeId, collections::HashMap, future::poll_fn, time::SystemTime};

    use rmcp::{
        ServiceError,
        transport::{DynamicTransportError, streamable_http_client::StreamableHttpClient as _},
    };
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::http::of_service_error;

    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    const ERROR: &str = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"busy"}}"#;

    fn call() -> ClientJsonRpcMessage {
        let params = json!({ "name": "play", "arguments": {} });
        let call = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
        serde_json::from_value(call).unwrap()
    }

    fn limits() -> StreamableHttpResponseLimits {
        let mut limits = StreamableHttpResponseLimits::default();
        limits.max_json_response_size = 1000;
        limits.max_error_response_size = 100;
        limits
    }

    type Answered = Result<StreamableHttpPostResponse, HttpError>;

    /// What was asked, and how it was taken that this was the answer: by rmcp's own client or ours.
    async fn exchange(
        client: &Client,
        answer: String,
        has_session: bool,
        ours: bool,
    ) -> (String, Answered) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"}}") {
                assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        let (call, limits) = (call(), limits());
        let session = has_session.then(|| "s-1".into());
        let token = Some("hunter2".into());
        let mut headers = HashMap::new();
        for (name, value) in [
            ("mcp-protocol-version", "2025-11-25"),
            ("content-type", "application/json; charset=utf-8"),
        ] {
            // Nobody has to say what is sent.
            if has_session || name != "content-type" {
                headers.insert(name.try_into().unwrap(), HeaderValue::from_static(value));
            }
        }
        let answered = if ours {
            post(client, &url, &call, session, token, headers, limits).await
        } else {
            client
                .post_message_with_response_limits(
                    url.into(),
                    call,
                    session,
                    token,
                    headers,
                    limits,
                )
                .await
        };
        (server.await.unwrap(), answered)
    }

    /// What a caller is told of it.
    fn told(answered: &mut Answered) -> String {
        match answered {
            Ok(StreamableHttpPostResponse::Accepted) => "accepted".into(),
            Ok(StreamableHttpPostResponse::Json(message, NO_SESSION)) => {
                format!("{message:?}")
            }
            Ok(StreamableHttpPostResponse::Sse(..)) => "events".into(),
            Ok(_) => unreachable!("there is no other kind"),
            Err(error) => {
                let error = std::mem::replace(error, StreamableHttpError::UnexpectedEndOfStream);
                let error =
                    DynamicTransportError::from_parts("http", TypeId::of::<()>(), Box::new(error));
                let (server, tool) = ("music".into(), "play".into());
                let now = SystemTime::UNIX_EPOCH;
                let error =
                    of_service_error(&server, &tool, ServiceError::TransportSend(error), now);
                let error = error.unwrap();
                let observed = error.observation();
                format!("{} {observed:?} {:?}", error.kind(), error.retry_after())
            }
        }
    }

    fn http(status: &str, kind: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
             \r\n{body}"
        )
    }

    fn with(header: &str, answer: &str) -> String {
        answer.replacen("\r\n", &format!("\r\n{header}\r\n"), 1)
    }

    /// Answers of all kinds.
    fn answers() -> Vec<String> {
        let json = "application/json";
        let text = "text/plain";
        let mut all = vec![
            http("200 OK", json, ANSWER),
            http("200 OK", "Application/JSON ; charset=utf-8", ANSWER),
            http("200 OK", json, ERROR),
            http("200 OK", json, "{}"),
            http("200 OK", json, ""),
            http("200 OK", json, &" ".repeat(1001)),
            http("200 OK", text, ANSWER),
            http("200 OK", "text/event-stream", "data: a\n\n"),
            http("202 Accepted", text, ""),
            http("204 No Content", text, ""),
            http("302 Found", text, "elsewhere"),
            with(
                "www-authenticate: Bearer",
                &http("401 Unauthorized", json, ERROR),
            ),
            with(
                "www-authenticate: Bearer scope=a",
                &http("403 Forbidden", text, ""),
            ),
            with(
                "retry-after: 7",
                &http("429 Too Many Requests", json, ERROR),
            ),
            with("retry-after: 7", &http("503 Unavailable", text, "")),
            with("retry-after: 7", &http("503 Unavailable", json, "{}")),
        ];
        for status in [
            "400 Bad Request",
            "401 Unauthorized",
            "403 Forbidden",
            "404 Not Found",
            "408 Request Timeout",
            "413 Too Large",
            "500 Internal Server Error",
            "503 Unavailable",
        ] {
            for (kind, body) in [(json, ERROR), (json, ANSWER), (json, "{}"), (text, ERROR)] {
                all.push(http(status, kind, body));
            }
        }
        all
    }

    #[tokio::test]
    async fn answers_are_taken_as_rmcp_s_own_client_takes_them() {
        let client = Client::new();
        for answer in answers() {
            for has_session in [false, true] {
                let (_, mut ours) = exchange(&client, answer.clone(), has_session, true).await;
                let (_, mut theirs) = exchange(&client, answer.clone(), has_session, false).await;
                assert_eq!(told(&mut ours), told(&mut theirs), "{answer}");
            }
        }
    }

    #[tokio::test]
    async fn the_same_is_asked_as_by_rmcp_s_own_client() {
        let lines = |asked: String| {
            let mut lines: Vec<_> = asked.lines().map(str::to_lowercase).collect();
            let differs = ["host:", "accept:"];
            lines.retain(|line| !differs.iter().any(|name| line.starts_with(name)));
            lines.sort();
            lines
        };
        let client = Client::new();
        for has_session in [false, true] {
            let answer = http("200 OK", "application/json", ANSWER);
            let (ours, _) = exchange(&client, answer.clone(), has_session, true).await;
            let (theirs, _) = exchange(&client, answer, has_session, false).await;
            let accepts = "accept: application/json, text/event-stream\r\n";
            assert!(ours.to_lowercase().contains(accepts), "{ours}");
            assert_eq!(lines(ours), lines(theirs));
        }
    }

    #[tokio::test]
    async fn the_beginning_of_what_a_server_says_of_a_failure_is_told() {
        let said = format!("no such tenant{}", "!".repeat(500));
        let (_, answered) = exchange(
            &Client::new(),
            http("400 Bad Request", "text/plain", &said),
            false,
            true,
        )
        .await;
        let told = answered.unwrap_err().to_string();
        assert!(
            told.contains("HTTP 400 Bad Request: no such tenant!"),
            "{told}"
        );
        assert!(told.len() < 200, "{told}");
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_read_up_to_the_limit() {
        let endless = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}",
            " ".repeat(5000)
        );
        let (_, answered) = exchange(&Client::new(), endless, false, true).await;
        let is_too_large = matches!(
            answered,
            Err(StreamableHttpError::ResponseBodyTooLarge { max_size: 1000 })
        );
        assert!(is_too_large);
    }

    #[tokio::test]
    async fn events_come_as_they_are_sent() {
        let answer = http("200 OK", "text/event-stream", "data: a\n\ndata: b\n\n");
        let (_, answered) = exchange(&Client::new(), answer, false, true).await;
        let Ok(StreamableHttpPostResponse::Sse(mut events, _)) = answered else {
            panic!("events are sent");
        };
        let mut all = Vec::new();
        while let Some(event) = poll_fn(|cx| events.as_mut().poll_next(cx)).await {
            all.push(event.unwrap().data.unwrap());
        }
        assert_eq!(all, ["a", "b"]);
    }
}
