//! What a failed HTTP exchange says of its call.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rmcp::{
    ServiceError,
    service::ClientInitializeError,
    transport::{DynamicTransportError, streamable_http_client::StreamableHttpError},
};
use toolweir_core::{Delivery, Observation, Outcome, error_text};

use super::url::fit_to_log;
use crate::{
    ToolError,
    classify::{in_header, of_http_status},
};

/// What rmcp's transport gives on reqwest, with OAuth or without.
type HttpError = StreamableHttpError<reqwest::Error>;

/// How an exchange over HTTP failed.
enum Failed {
    Status(u16, Option<Duration>),
    TooLarge(usize),
    /// The session, or the transport, is no more.
    Lost(Delivery),
    /// Without a status.
    Unauthorized,
    Otherwise(Delivery),
}

/// What became of a call whose request failed; the error itself where it is none of HTTP.
pub(crate) fn of_service_error(
    server: &Arc<str>,
    tool: &Arc<str>,
    error: ServiceError,
    now: SystemTime,
) -> Result<ToolError, ServiceError> {
    let Some(failed) = http_error(&error).map(|error| read(error, now)) else {
        return Err(error);
    };
    let (server, tool) = (server.clone(), tool.clone());
    let source = source_of(error);
    let observed = None;
    Ok(match failed {
        Failed::Status(status, retry_after) => ToolError::Http {
            server,
            tool,
            status,
            retry_after,
            source,
            observed,
        },
        Failed::TooLarge(limit) => ToolError::TooLarge {
            server,
            tool,
            limit,
            observed,
        },
        Failed::Lost(delivery) => ToolError::ConnectionLost {
            server,
            tool,
            observed: Some(Observation::new(Outcome::Failure, delivery)),
        },
        Failed::Unauthorized => ToolError::Transport {
            server,
            delivery: Delivery::NotSent,
            source,
            observed: Some(Observation::new(Outcome::Unauthorized, Delivery::NotSent)),
        },
        Failed::Otherwise(delivery) => ToolError::Transport {
            server,
            delivery,
            source,
            observed,
        },
    })
}

/// What a request of the handshake says by its failure.
pub(crate) fn of_transport(error: &DynamicTransportError, now: SystemTime) -> Option<Observation> {
    Some(match read(error.error.downcast_ref()?, now) {
        Failed::Status(status, retry_after) => of_http_status(status, retry_after),
        Failed::Unauthorized => Observation::new(Outcome::Unauthorized, Delivery::NotSent),
        Failed::TooLarge(_) => Observation::new(Outcome::Failure, Delivery::Executed),
        Failed::Lost(delivery) | Failed::Otherwise(delivery) => {
            Observation::new(Outcome::Failure, delivery)
        }
    })
}

/// What a failed request of the handshake says, where rmcp does not say it.
pub(crate) fn told(error: &DynamicTransportError) -> Option<String> {
    let error: &HttpError = error.error.downcast_ref()?;
    let credential = match read(error, SystemTime::UNIX_EPOCH) {
        Failed::Status(401, _) => {
            "HTTP 401, it wants a credential: the token is missing, wrong or over"
        }
        Failed::Status(403, _) => "HTTP 403, it does not allow this credential to do that",
        _ => {
            // Its own sources say why; rmcp's error has none.
            let StreamableHttpError::Client(error) = error else {
                return None;
            };
            return Some(error_text(error));
        }
    };
    Some(credential.into())
}

/// Whether the server has answered that it does not know the session.
pub(crate) fn is_session_lost(error: &ServiceError) -> bool {
    matches!(http_error(error), Some(StreamableHttpError::SessionExpired))
}

fn http_error(error: &ServiceError) -> Option<&HttpError> {
    match error {
        ServiceError::TransportSend(error) => error.error.downcast_ref(),
        _ => None,
    }
}

fn read(error: &HttpError, now: SystemTime) -> Failed {
    match error {
        StreamableHttpError::HttpStatus(failed) => {
            let retry_after = failed.retry_after.as_deref();
            let retry_after = retry_after.and_then(|value| in_header(value, now));
            Failed::Status(failed.status, retry_after)
        }
        StreamableHttpError::AuthRequired(_) => Failed::Status(401, None),
        StreamableHttpError::InsufficientScope(_) => Failed::Status(403, None),
        StreamableHttpError::UnexpectedServerResponse(said) => of_words(said),
        StreamableHttpError::ResponseBodyTooLarge { max_size } => Failed::TooLarge(*max_size),
        StreamableHttpError::SessionExpired => Failed::Lost(Delivery::NotSent),
        StreamableHttpError::TransportChannelClosed => Failed::Lost(Delivery::Ambiguous),
        // Without a connection, or a request that could be made, nothing went out.
        StreamableHttpError::Client(failed) if failed.is_connect() || failed.is_builder() => {
            Failed::Otherwise(Delivery::NotSent)
        }
        StreamableHttpError::ReservedHeaderConflict(_) => Failed::Otherwise(Delivery::NotSent),
        // There was no token to send with the request, or the one that was sent was rejected and
        // there is no other.
        #[cfg(feature = "oauth")]
        StreamableHttpError::Auth(_) => Failed::Unauthorized,
        _ => Failed::Otherwise(Delivery::Ambiguous),
    }
}

/// Of some statuses rmcp keeps a text alone, which begins with them: `HTTP 401 Unauthorized: …`. What
/// the server said comes after that, so it cannot pass for another status.
fn of_words(said: &str) -> Failed {
    let status = said.strip_prefix("HTTP ").and_then(|rest| rest.get(..3));
    match status.and_then(|status| status.parse().ok()) {
        Some(status) => Failed::Status(status, None),
        // The challenge of a 401 or a 403, with bytes that are no text.
        None if said == "invalid www-authenticate header value" => Failed::Unauthorized,
        None => Failed::Otherwise(Delivery::Ambiguous),
    }
}

/// The error that is told: without what rmcp wraps around it, which hides its sources, and without what
/// the server's URL may hold of secrets. On rmcp's own transport nobody has taken that away before.
pub(crate) fn source_of(error: ServiceError) -> Arc<dyn Error + Send + Sync> {
    let ServiceError::TransportSend(error) = error else {
        return Arc::new(error);
    };
    match error.error.downcast::<HttpError>().map(|error| *error) {
        Ok(error) => match fit_to_log(error) {
            StreamableHttpError::Client(error) => Arc::new(error),
            error => Arc::new(error),
        },
        Err(error) => error.into(),
    }
}

/// A failed handshake, as [`source_of`] has it.
pub(crate) fn of_handshake(mut failed: ClientInitializeError) -> ClientInitializeError {
    if let ClientInitializeError::TransportError { error, .. } = &mut failed {
        let placeholder = Box::new(HttpError::TransportChannelClosed);
        let taken = std::mem::replace(&mut error.error, placeholder);
        error.error = match taken.downcast::<HttpError>() {
            Ok(taken) => Box::new(fit_to_log(*taken)),
            Err(taken) => taken,
        };
    }
    failed
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use rmcp::transport::streamable_http_client::HttpStatusError;
    use tokio::net::TcpListener;

    use super::*;

    fn sent(error: HttpError) -> ServiceError {
        let error = Box::new(error);
        ServiceError::TransportSend(DynamicTransportError::from_parts(
            "http",
            TypeId::of::<()>(),
            error,
        ))
    }

    fn of(error: HttpError) -> ToolError {
        let (server, tool) = ("music".into(), "play".into());
        of_service_error(&server, &tool, sent(error), SystemTime::UNIX_EPOCH).unwrap()
    }

    fn said(error: HttpError) -> (&'static str, Outcome, Delivery) {
        let error = of(error);
        let Observation { outcome, delivery } = error.observation();
        (error.kind(), outcome, delivery)
    }

    fn words(words: &'static str) -> HttpError {
        StreamableHttpError::UnexpectedServerResponse(words.into())
    }

    #[test]
    fn a_status_is_read_from_the_type_and_its_time_from_the_header() {
        let status = |status, retry_after: &str| {
            of(HttpStatusError::new(status, Some(retry_after.into())).into())
        };
        let throttled = status(429, "7");
        assert_eq!(throttled.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(throttled.observation().delivery, Delivery::NotSent);
        let overloaded = status(503, "Thu, 01 Jan 1970 00:01:00 GMT");
        assert_eq!(overloaded.retry_after(), Some(Duration::from_secs(60)));
        assert!(matches!(throttled, ToolError::Http { status: 429, .. }));
        let failed = said(HttpStatusError::new(503, None).into());
        assert_eq!(failed, ("http", Outcome::Failure, Delivery::Ambiguous));
    }

    #[test]
    fn a_status_is_read_from_words_where_rmcp_has_no_more() {
        for (said_by_rmcp, expected) in [
            (
                "HTTP 401 Unauthorized: no",
                ("http", Outcome::Unauthorized, Delivery::NotSent),
            ),
            (
                "HTTP 403 Forbidden: HTTP 500",
                ("http", Outcome::Unauthorized, Delivery::NotSent),
            ),
            (
                "HTTP 408 Request Timeout: ",
                ("http", Outcome::Failure, Delivery::Ambiguous),
            ),
            (
                "HTTP 413 Payload Too Large: ",
                ("http", Outcome::Ignored, Delivery::NotSent),
            ),
            (
                "HTTP 302 Found: ",
                ("http", Outcome::Failure, Delivery::Ambiguous),
            ),
            (
                "could not parse: HTTP 401",
                ("transport", Outcome::Failure, Delivery::Ambiguous),
            ),
            (
                "HTTP 4é",
                ("transport", Outcome::Failure, Delivery::Ambiguous),
            ),
            (
                "HTTP ",
                ("transport", Outcome::Failure, Delivery::Ambiguous),
            ),
            (
                "invalid www-authenticate header value",
                ("transport", Outcome::Unauthorized, Delivery::NotSent),
            ),
        ] {
            assert_eq!(said(words(said_by_rmcp)), expected, "{said_by_rmcp}");
        }
    }

    #[test]
    fn what_has_no_status() {
        let failure = |kind, delivery| (kind, Outcome::Failure, delivery);
        for (error, expected) in [
            (
                StreamableHttpError::SessionExpired,
                failure("connection-lost", Delivery::NotSent),
            ),
            (
                StreamableHttpError::TransportChannelClosed,
                failure("connection-lost", Delivery::Ambiguous),
            ),
            (
                StreamableHttpError::UnexpectedEndOfStream,
                failure("transport", Delivery::Ambiguous),
            ),
            (
                StreamableHttpError::UnexpectedContentType(None),
                failure("transport", Delivery::Ambiguous),
            ),
            (
                StreamableHttpError::ReservedHeaderConflict("accept".into()),
                failure("transport", Delivery::NotSent),
            ),
            (
                StreamableHttpError::ResponseBodyTooLarge { max_size: 7 },
                ("too-large", Outcome::Ignored, Delivery::Executed),
            ),
        ] {
            let name = error.to_string();
            assert_eq!(said(error), expected, "{name}");
        }
        assert!(is_session_lost(&sent(StreamableHttpError::SessionExpired)));
        assert!(!is_session_lost(&sent(
            StreamableHttpError::UnexpectedEndOfStream
        )));
        assert!(!is_session_lost(&ServiceError::TransportClosed));
    }

    #[cfg(feature = "oauth")]
    #[test]
    fn without_a_token_a_call_is_unauthorized_and_was_not_sent() {
        let error = rmcp::transport::auth::AuthError::TokenExpired;
        let expected = ("transport", Outcome::Unauthorized, Delivery::NotSent);
        assert_eq!(said(StreamableHttpError::Auth(error)), expected);
    }

    #[test]
    fn what_is_not_of_http_is_handed_back() {
        let (server, tool) = ("music".into(), "play".into());
        let error = ServiceError::UnexpectedResponse;
        let now = SystemTime::UNIX_EPOCH;
        assert!(of_service_error(&server, &tool, error, now).is_err());
    }

    #[tokio::test]
    async fn without_a_connection_nothing_was_sent_and_the_url_is_not_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp?key=hunter2", listener.local_addr().unwrap());
        drop(listener);
        let refused = reqwest::Client::new().post(&url).send().await.unwrap_err();
        assert!(refused.to_string().contains("hunter2"));
        let error = of(StreamableHttpError::Client(refused));
        let expected = Observation::new(Outcome::Failure, Delivery::NotSent);
        assert_eq!(error.observation(), expected);
        assert!(
            !format!("{error} {error:?}").contains("hunter2"),
            "{error:?}"
        );
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_under_a_request_leaves_it_ambiguous() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (broken, _) = tokio::join!(reqwest::Client::new().post(&url).send(), async {
            drop(listener.accept().await.unwrap());
        });
        let expected = ("transport", Outcome::Failure, Delivery::Ambiguous);
        assert_eq!(
            said(StreamableHttpError::Client(broken.unwrap_err())),
            expected
        );
    }
}
