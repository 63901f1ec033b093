//! What an answer says about the server: computed once, where the answer arrives.

mod answer;
mod custom;
mod retry_after;
mod text;
pub(crate) mod too_large;

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rmcp::{ServiceError, service::ClientInitializeError};
use toolweir_core::{Classify, Delivery, Observation, Outcome, error_text, shown};

#[cfg(feature = "http")]
use crate::http;
use crate::{
    ToolError, ToolResponse,
    connection::{ConnectError, is_loss},
};

pub(crate) use answer::{of_http_status, of_result, of_rpc_error};
pub(crate) use custom::{Classifier, Custom};
#[cfg(feature = "token-freshness")]
pub(crate) use retry_after::bounded_by;
#[cfg(feature = "http")]
pub(crate) use retry_after::in_header;

pub use custom::Answer;
pub use text::TextRules;

/// Reads the observation that [`McpService`](crate::McpService) stored in the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct McpClassifier;

impl Classify<ToolResponse, ToolError> for McpClassifier {
    fn classify(&self, result: Result<&ToolResponse, &ToolError>) -> Observation {
        match result {
            Ok(response) => response.observation(),
            Err(error) => error.observation(),
        }
    }

    fn describe(&self, result: Result<&ToolResponse, &ToolError>) -> Option<String> {
        Some(match result {
            Ok(response) => shown(response.text()),
            Err(error) => error_text(error),
        })
    }
}

/// Reads what a call says of its server's health: whatever a server answers, it is there. A call whose
/// time was over says nothing, because it may be the tool that is slow; a probe can tell.
///
/// A tool that fails is for a circuit breaker, which may have a circuit for each. A health gate that heard
/// of it would shut out the tools that work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct McpLiveness;

impl Classify<ToolResponse, ToolError> for McpLiveness {
    fn classify(&self, result: Result<&ToolResponse, &ToolError>) -> Observation {
        let observation = McpClassifier.classify(result);
        let outcome = match (observation.outcome, observation.delivery) {
            (Outcome::Failure, Delivery::Executed) => Outcome::Success,
            (Outcome::Failure, _) if matches!(result, Err(ToolError::TimedOut { .. })) => {
                Outcome::Ignored
            }
            (outcome, _) => outcome,
        };
        Observation {
            outcome,
            ..observation
        }
    }
}

/// What the error of any request says; nothing where its kind says it all.
pub(crate) fn of_request(error: &ServiceError) -> Option<Observation> {
    match error {
        ServiceError::McpError(error) => Some(of_rpc_error(error)),
        #[cfg(feature = "http")]
        ServiceError::TransportSend(error) => http::of_transport(error, SystemTime::now()),
        _ => None,
    }
}

/// The error to be told: without what a transport wraps around it.
pub(crate) fn source_of(error: ServiceError) -> Arc<dyn Error + Send + Sync> {
    #[cfg(feature = "http")]
    return http::source_of(error);
    #[cfg(not(feature = "http"))]
    Arc::new(error)
}

/// What became of a call that rmcp answers with an error. A date to come back is read at `now`.
pub(crate) fn of_service_error(
    server: &Arc<str>,
    tool: &Arc<str>,
    error: ServiceError,
    now: SystemTime,
) -> ToolError {
    #[cfg(feature = "http")]
    let error = match http::of_service_error(server, tool, error, now) {
        Ok(error) => return error,
        Err(error) => error,
    };
    #[cfg(not(feature = "http"))]
    let _ = now;
    let (server, tool) = (server.clone(), tool.clone());
    match error {
        ServiceError::McpError(error) => match too_large::limit_in(&error) {
            Some(limit) => ToolError::TooLarge {
                server,
                tool,
                limit,
                observed: None,
            },
            None => ToolError::Protocol {
                tool,
                error: Arc::new(error),
                observed: None,
            },
        },
        error if is_loss(&error) => ToolError::ConnectionLost {
            server,
            tool,
            observed: None,
        },
        error => ToolError::Transport {
            server,
            delivery: Delivery::Ambiguous,
            source: Arc::new(error),
            observed: None,
        },
    }
}

/// Whether the server has answered that it does not know the session, so that the call was not made.
pub(crate) fn is_session_lost(error: &ServiceError) -> bool {
    #[cfg(feature = "http")]
    let lost = http::is_session_lost(error);
    #[cfg(not(feature = "http"))]
    let lost = {
        let _ = error;
        false
    };
    lost
}

/// What a failed handshake says, where that is more than that there is no connection: that the server
/// throttles, or rejects the credential.
pub(crate) fn of_connect_error(error: &ConnectError, now: SystemTime) -> Option<Observation> {
    let failed = error.source.as_ref()?.downcast_ref()?;
    let observation = match failed {
        ClientInitializeError::JsonRpcError(error) => of_rpc_error(error),
        #[cfg(feature = "http")]
        ClientInitializeError::TransportError { error, .. } => http::of_transport(error, now)?,
        _ => {
            let _ = now;
            return None;
        }
    };
    let outcome = observation.outcome;
    let says_more = matches!(outcome, Outcome::Throttled { .. } | Outcome::Unauthorized);
    says_more.then_some(Observation::new(outcome, Delivery::NotSent))
}

/// For how long a server that throttles a handshake wants to be left alone, by its own word.
pub(crate) fn pause_asked_for(error: &ConnectError, now: SystemTime) -> Option<Duration> {
    match of_connect_error(error, now)?.outcome {
        Outcome::Throttled { retry_after } => retry_after,
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{prelude::*, test_runner::RngAlgorithm};

    /// Properties of parsers: many cases of little work, the same on every machine.
    pub(crate) fn quick() -> ProptestConfig {
        ProptestConfig {
            cases: 500,
            failure_persistence: None,
            rng_algorithm: RngAlgorithm::XorShift,
            ..ProptestConfig::default()
        }
    }
}
