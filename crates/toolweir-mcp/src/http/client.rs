//! The client that requests go out through: with the token of the moment.

use std::{collections::HashMap, future::pending, sync::Arc};

use ::http::{HeaderName, HeaderValue};
use rmcp::{
    model::{ClientJsonRpcMessage, JsonRpcMessage, RequestId},
    transport::streamable_http_client::{
        StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
        StreamableHttpResponseLimits,
    },
};
use tokio::sync::watch;

use super::{
    BearerToken,
    events::{Events, id_of, of_answer},
    post::{is_call, post},
    url::fit_to_log,
};

/// One of the clients that rmcp knows, and perhaps a token for its requests.
#[derive(Clone)]
pub(crate) struct HttpClient {
    kind: Kind,
    bearer: Option<BearerToken>,
    /// Closed when the connection is given up. rmcp's own task for a handshake would wait for the answer
    /// to a request for ever, after everybody else has gone.
    listening: Option<watch::Receiver<()>>,
}

#[derive(Clone)]
enum Kind {
    Plain(reqwest::Client),
    #[cfg(feature = "oauth")]
    OAuth(rmcp::transport::auth::AuthClient<reqwest::Client>),
}

pub(super) type HttpError = StreamableHttpError<reqwest::Error>;
pub(super) type Headers = HashMap<HeaderName, HeaderValue>;

/// The same call on whichever client it is, until the connection is given up.
macro_rules! on {
    ($self:ident, $client:ident => $call:expr) => {
        $self
            .unless_given_up(async {
                match &$self.kind {
                    Kind::Plain($client) => $call.await,
                    #[cfg(feature = "oauth")]
                    Kind::OAuth($client) => $call.await,
                }
            })
            .await
    };
}

impl HttpClient {
    pub(super) const fn plain(client: reqwest::Client) -> Self {
        Self {
            kind: Kind::Plain(client),
            bearer: None,
            listening: None,
        }
    }

    #[cfg(feature = "oauth")]
    pub(super) const fn oauth(client: rmcp::transport::auth::AuthClient<reqwest::Client>) -> Self {
        Self {
            kind: Kind::OAuth(client),
            bearer: None,
            listening: None,
        }
    }

    pub(super) fn with_bearer(mut self, bearer: Option<BearerToken>) -> Self {
        self.bearer = bearer;
        self
    }

    pub(super) fn while_open(mut self, listening: watch::Receiver<()>) -> Self {
        self.listening = Some(listening);
        self
    }

    /// rmcp logs the error.
    async fn unless_given_up<T>(
        &self,
        answer: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        tokio::select! {
            biased;
            answer = answer => answer.map_err(fit_to_log),
            () = self.given_up() => Err(HttpError::TransportChannelClosed),
        }
    }

    async fn given_up(&self) {
        let Some(mut listening) = self.listening.clone() else {
            return pending().await;
        };
        while listening.changed().await.is_ok() {}
    }

    fn token(&self, given: Option<String>) -> Option<String> {
        given.or_else(|| self.bearer.as_ref().map(BearerToken::get))
    }
}

impl StreamableHttpClient for HttpClient {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session, token, headers, limits)
            .await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        let token = self.token(token);
        let (id, most) = (id_of(&message), limits.max_sse_event_size);
        let (number, has_session) = (number_of(&message), session.is_some());
        let answer = match &self.kind {
            Kind::Plain(client) if is_call(&message) => {
                let posted = post(client, &uri, &message, session, token, headers, limits);
                self.unless_given_up(posted).await
            }
            _ => on!(self, client => client.post_message_with_response_limits(
                uri, message, session, token, headers, limits,
            )),
        }?;
        match answer {
            StreamableHttpPostResponse::Sse(events, session) => {
                let events = of_answer(id, most, events);
                Ok(StreamableHttpPostResponse::Sse(events, session))
            }
            answer => of_request(number, has_session, answer),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<(), HttpError> {
        let token = self.token(token);
        on!(self, client => client.delete_session(uri, session, token, headers))
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<Events, HttpError> {
        let token = self.token(token);
        on!(self, client => client.get_stream(uri, session, last_event, token, headers))
            .map_err(for_good)
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        token: Option<String>,
        headers: Headers,
        most: usize,
    ) -> Result<Events, HttpError> {
        let token = self.token(token);
        on!(self, client => client.get_stream_with_max_sse_event_size(
            uri, session, last_event, token, headers, most,
        ))
        .map_err(for_good)
    }
}

fn number_of(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    match message {
        JsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    }
}

/// How servers begin that follow the TypeScript SDK's example, and do not know a session.
const NO_SESSION: &str = "Bad Request: No valid session ID";

/// An error that answers a request over HTTP is that request's, also where it does not say so: it may come
/// from a server that has not read the request. rmcp would leave the call waiting.
///
/// So it is with sessions: the specification has a 404 for one that is not known, which rmcp reads, and
/// many servers follow the TypeScript SDK's example, a 400 with an error for no request. rmcp hands on the
/// error and not the status. That it names no request is what tells it from an answer: the same words
/// in an error with the request's number are the tool's own, and the tool has run.
fn of_request(
    id: Option<RequestId>,
    has_session: bool,
    answer: StreamableHttpPostResponse,
) -> Result<StreamableHttpPostResponse, HttpError> {
    let StreamableHttpPostResponse::Json(JsonRpcMessage::Error(mut error), session) = answer else {
        return Ok(answer);
    };
    let said = &error.error;
    let no_session = said.code.0 == -32000 && said.message.starts_with(NO_SESSION);
    if has_session && no_session && error.id.is_none() {
        return Err(HttpError::SessionExpired);
    }
    error.id = error.id.or(id);
    let answer = JsonRpcMessage::Error(error);
    Ok(StreamableHttpPostResponse::Json(answer, session))
}

/// A server that does not know a stream, or its session, will not know it later either. After any other
/// error than this one rmcp asks again, and leaves the call waiting whose answer was to come by it.
fn for_good(error: HttpError) -> HttpError {
    let status = match &error {
        HttpError::HttpStatus(failed) => Some(failed.status),
        HttpError::Client(failed) => failed.status().map(|status| status.as_u16()),
        HttpError::SessionExpired => Some(404),
        _ => None,
    };
    match status {
        Some(400 | 404 | 410) => HttpError::ServerDoesNotSupportSse,
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(message: &str) -> StreamableHttpPostResponse {
        answer_of(&Value::Null, message)
    }

    fn answer_of(id: &Value, message: &str) -> StreamableHttpPostResponse {
        let error = json!({ "code": -32000, "message": message });
        let answer = json!({ "jsonrpc": "2.0", "id": id, "error": error });
        StreamableHttpPostResponse::Json(serde_json::from_value(answer).unwrap(), None)
    }

    #[test]
    fn an_error_without_a_number_is_the_request_s() {
        let answer = of_request(Some(RequestId::Number(7)), true, answer("Bad Request"));
        let Ok(StreamableHttpPostResponse::Json(JsonRpcMessage::Error(error), _)) = answer else {
            panic!("it is no error of the protocol");
        };
        assert_eq!(error.id, Some(RequestId::Number(7)));
    }

    #[test]
    fn a_session_that_is_not_known_is_lost() {
        let text = "Bad Request: No valid session ID provided";
        let id = || Some(RequestId::Number(7));
        let lost = of_request(id(), true, answer(text));
        assert!(matches!(lost, Err(HttpError::SessionExpired)));
        // Without a session none can be lost.
        assert!(of_request(id(), false, answer(text)).is_ok());
    }

    #[test]
    fn the_same_words_in_an_answer_are_the_tool_s_own() {
        let text = "Bad Request: No valid session ID provided";
        let id = || Some(RequestId::Number(7));
        assert!(of_request(id(), true, answer_of(&json!(7), text)).is_ok());
        let quoted = format!("the backend said: {text}");
        assert!(of_request(id(), true, answer(&quoted)).is_ok());
    }
}
