//! The client that requests go out through: with the token of the moment.

use std::{collections::HashMap, future::pending, sync::Arc};

use ::http::{HeaderName, HeaderValue};
use rmcp::{
    model::ClientJsonRpcMessage,
    transport::streamable_http_client::{
        StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
        StreamableHttpResponseLimits,
    },
};
use tokio::sync::watch;

use super::{
    BearerToken,
    events::{Events, id_of, of_answer},
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

type HttpError = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// The same call on whichever client it is, until the connection is given up.
macro_rules! on {
    ($self:ident, $client:ident => $call:expr) => {
        tokio::select! {
            biased;
            answer = async {
                match &$self.kind {
                    Kind::Plain($client) => $call.await,
                    #[cfg(feature = "oauth")]
                    Kind::OAuth($client) => $call.await,
                }
            } => answer,
            () = $self.given_up() => Err(HttpError::TransportChannelClosed),
        }
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
        let answer = on!(self, client => client.post_message_with_response_limits(
            uri, message, session, token, headers, limits,
        ))?;
        Ok(match answer {
            StreamableHttpPostResponse::Sse(events, session) => {
                StreamableHttpPostResponse::Sse(of_answer(id, most, events), session)
            }
            answer => answer,
        })
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
