//! What passes between workflow and activities: plain JSON, for workflows in any language.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use temporalio_common::ActivityDefinition;

/// The activity type that calls a tool.
pub const CALL_TOOL: &str = "toolweir.call_tool";

/// The activity type that asks whether a call would go through now.
pub const PREFLIGHT: &str = "toolweir.preflight";

/// Calls a tool. The activity is called [`CALL_TOOL`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CallTool;

impl ActivityDefinition for CallTool {
    type Input = CallToolInput;
    type Output = CallToolOutput;

    fn name(&self) -> &'static str {
        CALL_TOOL
    }
}

/// Asks a server's layers whether a call would go through now. The activity is called
/// [`PREFLIGHT`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Preflight;

impl ActivityDefinition for Preflight {
    type Input = PreflightInput;
    type Output = PreflightReport;

    fn name(&self) -> &'static str {
        PREFLIGHT
    }
}

/// The input of [`CALL_TOOL`].
///
/// ```
/// let input: toolweir_workflow::CallToolInput = serde_json::from_str(
///     r#"{ "server": "music", "tool": "search", "arguments": { "title": "Jóga" } }"#,
/// )?;
/// assert_eq!(input.idempotency_key, None);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallToolInput {
    /// The server's name in the worker's registry.
    pub server: String,
    /// The tool's name on that server.
    pub tool: String,
    /// The tool's arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// On whose behalf: a name, never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Which effect is meant. Left out, it is made of namespace, workflow, run and activity id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The activity's schedule-to-close timeout in milliseconds, which the worker cannot read from
    /// the activity's own facts: a wait that would outlast it fails at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_to_close_ms: Option<u64>,
    /// How long the tool may be silent, in milliseconds. Progress that it reports begins this time
    /// anew. Left out, or zero, the worker's own setting for the server holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
}

impl CallToolInput {
    /// A call of `tool` on `server` without arguments.
    #[must_use]
    pub fn new(server: impl Into<String>, tool: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            tool: tool.into(),
            arguments: Map::new(),
            principal: None,
            idempotency_key: None,
            schedule_to_close_ms: None,
            idle_timeout_ms: None,
        }
    }
}

/// The heartbeat details of [`CALL_TOOL`] once the tool has said how far it is: its last word.
///
/// ```
/// let said = r#"{ "done": 3.0, "total": 12.0, "message": "reading playlists" }"#;
/// let progress: toolweir_workflow::CallProgress = serde_json::from_str(said)?;
/// assert_eq!(progress.total, Some(12.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallProgress {
    /// How much is done. What it counts is the tool's own.
    pub done: f64,
    /// How much there is to do, if the tool knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// What it says to a person, a few hundred characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl CallProgress {
    /// So much done, of so much if that is known, with a word to a person.
    #[must_use]
    pub const fn new(done: f64, total: Option<f64>, message: Option<String>) -> Self {
        Self {
            done,
            total,
            message,
        }
    }
}

/// The output of [`CALL_TOOL`].
///
/// A tool that answered with an error of its own, such as "no such playlist", is an output with
/// `is_error`. That the server throttles, fails or rejects the credential is a failure of the
/// activity, so that Temporal repeats it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallToolOutput {
    /// The tool's structured content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
    /// The texts of the tool's content, joined by line ends.
    #[serde(default)]
    pub text: String,
    /// Whether the tool reports an error of its own.
    #[serde(default)]
    pub is_error: bool,
}

impl CallToolOutput {
    /// An output of structured content and text.
    #[must_use]
    pub fn new(structured: Option<Value>, text: impl Into<String>, is_error: bool) -> Self {
        Self {
            structured,
            text: text.into(),
            is_error,
        }
    }
}

/// The input of [`PREFLIGHT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PreflightInput {
    /// The server's name in the worker's registry.
    pub server: String,
    /// On whose behalf: a name, never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
}

impl PreflightInput {
    /// A preflight of `server`.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            principal: None,
        }
    }
}

/// The output of [`PREFLIGHT`]: one answer, and what it is made of.
///
/// It is one worker's view and advice only. Each call is checked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PreflightReport {
    /// Whether a call would go through now.
    pub ready: bool,
    /// Why not: the reasons of the checks that refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In how many milliseconds to ask again. Absent from a refusal that no wait will end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The checks, one for each layer that preflight knows.
    pub checks: Vec<Check>,
}

/// What one layer says in a preflight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Check {
    /// The layer's name.
    pub name: String,
    /// Whether the server has this layer. What is not configured counts as ready.
    pub configured: bool,
    /// Whether a call would pass this layer.
    pub ready: bool,
    /// Why not, or what a layer that is ready has to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In how many milliseconds it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Check {
    /// A layer that lets calls through.
    #[must_use]
    pub fn ready(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            configured: true,
            ready: true,
            reason: None,
            retry_after_ms: None,
        }
    }

    /// A layer that the server does not have.
    #[must_use]
    pub fn not_configured(name: impl Into<String>) -> Self {
        Self {
            configured: false,
            ..Self::ready(name)
        }
    }

    /// A layer that refuses, and until when if that is known.
    #[must_use]
    pub fn refusing(
        name: impl Into<String>,
        reason: impl Into<String>,
        retry_after_ms: Option<u64>,
    ) -> Self {
        Self {
            ready: false,
            reason: Some(reason.into()),
            retry_after_ms,
            ..Self::ready(name)
        }
    }
}

impl PreflightReport {
    /// The answer that `checks` add up to: ready if all are, else the reasons of those that are
    /// not, and the longest of their waits. One that knows no time leaves the answer without.
    #[must_use]
    pub fn from_checks(checks: Vec<Check>) -> Self {
        let refusing: Vec<&Check> = checks.iter().filter(|check| !check.ready).collect();
        let reason = (!refusing.is_empty()).then(|| {
            let reasons: Vec<&str> = refusing
                .iter()
                .map(|check| check.reason.as_deref().unwrap_or(&check.name))
                .collect();
            reasons.join("; ")
        });
        let retry_after_ms = refusing
            .iter()
            .map(|check| check.retry_after_ms)
            .collect::<Option<Vec<u64>>>()
            .and_then(|waits| waits.into_iter().max());
        Self {
            ready: refusing.is_empty(),
            reason,
            retry_after_ms,
            checks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_are_all_ready_add_up_to_ready() {
        let report = PreflightReport::from_checks(vec![
            Check::ready("rate-limit"),
            Check::not_configured("health-gate"),
        ]);
        assert!(report.ready && report.reason.is_none() && report.retry_after_ms.is_none());
    }

    #[test]
    fn the_longest_wait_counts() {
        let report = PreflightReport::from_checks(vec![
            Check::refusing("rate-limit", "paused", Some(10)),
            Check::ready("semaphore"),
            Check::refusing("circuit-breaker", "open", Some(500)),
        ]);
        assert!(!report.ready);
        assert_eq!(report.reason.as_deref(), Some("paused; open"));
        assert_eq!(report.retry_after_ms, Some(500));
    }

    #[test]
    fn a_refusal_without_a_time_leaves_the_answer_without() {
        let report = PreflightReport::from_checks(vec![
            Check::refusing("rate-limit", "paused", Some(10)),
            Check::refusing("token-freshness", "rejected", None),
        ]);
        assert_eq!(report.retry_after_ms, None);
    }

    #[test]
    fn absent_fields_are_not_written() {
        let json = serde_json::to_value(CallToolInput::new("music", "search")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({ "server": "music", "tool": "search", "arguments": {} })
        );
    }
}
