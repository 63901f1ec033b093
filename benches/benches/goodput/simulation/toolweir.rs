//! Our own rate limit. A caller that is refused comes back when it is told, as Temporal does.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::sleep;
use toolweir_core::{AsRejection as _, Classify, Delivery, Facts, Observation, Outcome, Rejection};
use toolweir_rate_limit::{RateLimit, RateLimitConfig, RateLimitLayer};
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::{
    callers,
    server::{Answer, Call, Server},
};

/// Who comes back does so a little late: a timer fires, a worker takes the task up.
const LATE: Duration = Duration::from_millis(20);

/// A limiter before the server.
pub(super) struct Limited {
    service: RateLimit<Server, ReadAnswer, CallFacts>,
    server: Server,
}

/// The server's quota, with the margin of a call that everything needs which is on its way for longer
/// or shorter: 2 % of the rate, and one of the burst.
pub(super) fn quota(server: &Server) -> Result<Limited> {
    let quota = RateLimitConfig::builder().quota(98, Duration::from_secs(10));
    Ok(Limited::new(server, quota.burst(9).build()?))
}

/// Nothing is known of the quota.
pub(super) fn learned(server: &Server) -> Result<Limited> {
    Ok(Limited::new(
        server,
        RateLimitConfig::builder().learned().build()?,
    ))
}

#[derive(Debug, Clone, Copy)]
struct CallFacts;

impl Facts<Call> for CallFacts {
    fn call_id<'r>(&self, call: &'r Call) -> Option<&'r str> {
        Some(&call.id)
    }
}

#[derive(Debug, Clone, Copy)]
struct ReadAnswer;

impl Classify<Answer, BoxError> for ReadAnswer {
    fn classify(&self, result: Result<&Answer, &BoxError>) -> Observation {
        let outcome = match result {
            Ok(Answer::Served) => Outcome::Success,
            Ok(Answer::TooMany(after)) => Outcome::Throttled {
                retry_after: Some(*after),
            },
            Err(_) => Outcome::Failure,
        };
        Observation::new(outcome, Delivery::Executed)
    }
}

impl Limited {
    fn new(server: &Server, config: RateLimitConfig) -> Self {
        let limit = RateLimitLayer::new(config)
            .name("server")
            .with_facts(CallFacts)
            .with_classifier(ReadAnswer);
        Self {
            service: limit.layer(server.clone()),
            server: server.clone(),
        }
    }

    /// Makes all calls. Who is refused comes back when it is told.
    pub(super) async fn returning(&self) -> Result<Vec<u32>> {
        callers::all(|call| {
            let (limited, server) = (self.service.clone(), self.server.clone());
            async move {
                for attempt in 1.. {
                    let wait = match limited.clone().oneshot(call.clone()).await {
                        Ok(Answer::Served) => return Ok(attempt),
                        Ok(Answer::TooMany(after)) => after,
                        Err(error) => error
                            .as_rejection()
                            .and_then(Rejection::retry_after)
                            .ok_or_else(|| anyhow!("refused for good: {error}"))?,
                    };
                    sleep(wait + LATE.mul_f64(server.random())).await;
                }
                Err(anyhow!("tried for ever"))
            }
        })
        .await
    }
}
