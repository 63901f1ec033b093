//! What a server's own classifier says, before the one that is built in.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rmcp::model::CallToolResult;
use toolweir_core::Observation;

use super::{TextRules, of_result};
use crate::ToolError;

/// How a call ended, for [`McpServiceBuilder::classify_with`](crate::McpServiceBuilder::classify_with).
///
/// A refusal is never asked about: it says nothing of the server.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Answer<'a> {
    /// The tool's name.
    pub tool: &'a str,
    /// What it answered, which may be that it failed; or why there is no answer. The error's own
    /// [`observation`](ToolError::observation) is what counts where nothing else is said.
    pub result: Result<&'a CallToolResult, &'a ToolError>,
}

/// A closure that knows a server's ways. `None` leaves the answer to what is built in.
pub(crate) type Custom = Arc<dyn Fn(Answer<'_>) -> Option<Observation> + Send + Sync>;

/// How the answers of one server are read.
#[derive(Default)]
pub(crate) struct Classifier {
    server: Arc<str>,
    rules: TextRules,
    custom: Option<Custom>,
    /// Whether it was said that the closure panics.
    told: AtomicBool,
}

impl Classifier {
    pub(crate) fn new(server: Arc<str>, rules: TextRules, custom: Option<Custom>) -> Self {
        Self {
            server,
            rules,
            custom,
            told: AtomicBool::new(false),
        }
    }

    /// What a tool's result says; `text` is the text in it.
    pub(crate) fn of_result(&self, tool: &str, result: &CallToolResult, text: &str) -> Observation {
        let answer = Answer {
            tool,
            result: Ok(result),
        };
        let said = self.ask(answer);
        said.unwrap_or_else(|| of_result(result, text, &self.rules))
    }

    /// The error, with what the closure says of it.
    pub(crate) fn of_error(&self, tool: &str, error: ToolError) -> ToolError {
        if self.custom.is_none() || matches!(error, ToolError::Refused(_)) {
            return error;
        }
        let answer = Answer {
            tool,
            result: Err(&error),
        };
        match self.ask(answer) {
            Some(observation) => error.observed(observation),
            None => error,
        }
    }

    fn ask(&self, answer: Answer<'_>) -> Option<Observation> {
        let custom = self.custom.as_ref()?;
        match catch_unwind(AssertUnwindSafe(|| custom(answer))) {
            Ok(said) => said,
            Err(_) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let server = &self.server;
                    tracing::warn!(%server, "the classifier panics; it is passed over");
                }
                None
            }
        }
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier")
            .field("server", &self.server)
            .field("rules", &self.rules)
            .field("custom", &self.custom.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use toolweir_core::{Delivery, Outcome, Reason, Rejection};

    use super::*;

    fn with(
        custom: impl Fn(Answer<'_>) -> Option<Observation> + Send + Sync + 'static,
    ) -> Classifier {
        Classifier::new("music".into(), TextRules::none(), Some(Arc::new(custom)))
    }

    fn timed_out() -> ToolError {
        ToolError::TimedOut {
            tool: "play".into(),
            after: Duration::from_secs(1),
            delivery: Delivery::Ambiguous,
            observed: None,
        }
    }

    const SAID: Observation = Observation::new(Outcome::Unauthorized, Delivery::Executed);

    #[test]
    fn the_closure_goes_first_and_may_pass() {
        let classifier = with(|answer| (answer.tool == "play").then_some(SAID));
        let result = CallToolResult::default();
        assert_eq!(classifier.of_result("play", &result, ""), SAID);
        let other = classifier.of_result("stop", &result, "").outcome;
        assert_eq!(other, Outcome::Success);
        let error = classifier.of_error("play", timed_out());
        assert_eq!(error.observation(), SAID);
        let error = classifier.of_error("stop", timed_out());
        assert_eq!(error.observation(), timed_out().observation());
    }

    #[test]
    fn a_refusal_is_not_asked_about() {
        let asked = Arc::new(AtomicBool::new(false));
        let told = asked.clone();
        let classifier = with(move |_| {
            told.store(true, Ordering::Relaxed);
            Some(SAID)
        });
        let refused = Rejection::new("breaker", Reason::ShuttingDown);
        let error = classifier.of_error("play", refused.into());
        assert_eq!(error.observation().outcome, Outcome::Ignored);
        assert!(!asked.load(Ordering::Relaxed));
    }

    #[test]
    fn a_panic_counts_as_nothing_said() {
        let classifier = with(|_| panic!("a bug"));
        for _ in 0..2 {
            let error = classifier.of_error("play", timed_out());
            assert_eq!(error.observation(), timed_out().observation());
            let result = classifier.of_result("play", &CallToolResult::default(), "");
            assert_eq!(result.outcome, Outcome::Success);
        }
    }
}
