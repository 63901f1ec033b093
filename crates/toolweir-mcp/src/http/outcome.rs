//! What a failed HTTP exchange says of its call.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rmcp::{
    ServiceError,
    transport::{DynamicTransportError, streamable_http_client::StreamableHttpError},
};
use toolweir_core::{Delivery, Observation, Outcome};

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
    let source = Arc::new(without_url(error));
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

/// The error without the server's URL, which may hold a secret.
fn without_url(error: ServiceError) -> ServiceError {
    let ServiceError::TransportSend(mut error) = error else {
        return error;
    };
    error.error = match error.error.downcast::<HttpError>() {
        Ok(failed) => Box::new(match *failed {
            StreamableHttpError::Client(failed) => {
                StreamableHttpError::Client(failed.without_url())
            }
            failed => failed,
        }),
        Err(failed) => failed,
    };
    ServiceError::TransportSend(error)
}
