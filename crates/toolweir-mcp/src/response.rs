//! The response: a tool's answer, and what it says about the server.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use rmcp::model::CallToolResult;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Deserializer as PathDeserializer, Track};
use toolweir_core::{Observation, Outcome};

use crate::{
    classify::Classifier,
    hostile::{Quoted, Shown},
};

/// A tool's answer.
#[derive(Debug, Clone)]
pub struct ToolResponse {
    tool: Arc<str>,
    result: CallToolResult,
    /// Where there is more than one text: a copy of one would be made with every answer.
    joined: Option<String>,
    observation: Observation,
}

impl ToolResponse {
    pub(crate) fn new(tool: Arc<str>, result: CallToolResult, classifier: &Classifier) -> Self {
        let joined =
            (texts(&result).count() > 1).then(|| texts(&result).collect::<Vec<_>>().join("\n"));
        let text = text(&result, joined.as_deref());
        let observation = classifier.of_result(&tool, &result, text);
        Self {
            tool,
            result,
            joined,
            observation,
        }
    }

    /// Whether the tool reports an error: then [`text`](Self::text) says which, and
    /// [`into`](Self::into) fails with it. For the layers it is an answer like any other, unless the
    /// server's configuration says that it is more.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.result.is_error.unwrap_or(false)
    }

    /// The structured content.
    #[must_use]
    pub const fn structured(&self) -> Option<&Value> {
        self.result.structured_content.as_ref()
    }

    /// The texts of the content, joined by line ends.
    #[must_use]
    pub fn text(&self) -> &str {
        text(&self.result, self.joined.as_deref())
    }

    /// The answer as rmcp gave it.
    #[must_use]
    pub const fn result(&self) -> &CallToolResult {
        &self.result
    }

    /// What the answer says about the server.
    #[must_use]
    pub const fn observation(&self) -> Observation {
        self.observation
    }

    /// When the server, if it throttles, will take calls again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.observation.outcome {
            Outcome::Throttled { retry_after } => retry_after,
            _ => None,
        }
    }

    /// Reads the answer as a `T`: from the structured content, or else from a text that is JSON.
    ///
    /// # Errors
    ///
    /// Says what the tool reports, if that is an error, or names the path at which the answer differs.
    pub fn into<T: DeserializeOwned>(mut self) -> Result<T, DecodeError> {
        if self.is_error() {
            let reason = Reason::Reported(Shown(self.text()).to_string());
            return Err(DecodeError {
                tool: self.tool,
                reason,
            });
        }
        let read = match self.result.structured_content.take() {
            Some(value) => serde_path_to_error::deserialize(value),
            None => of_text(text(&self.result, self.joined.as_deref())),
        };
        read.map_err(|error| DecodeError {
            tool: self.tool,
            reason: Reason::Differs {
                path: Shown(&error.path().to_string()).to_string(),
                source: Mismatch(Shown(&error.inner().to_string()).to_string()),
            },
        })
    }
}

fn texts(result: &CallToolResult) -> impl Iterator<Item = &str> {
    let contents = result.content.iter();
    contents.filter_map(|content| content.as_text().map(|text| text.text.as_str()))
}

/// The text of an answer: `joined`, or the only one there is.
fn text<'a>(result: &'a CallToolResult, joined: Option<&'a str>) -> &'a str {
    joined.unwrap_or_else(|| texts(result).next().unwrap_or_default())
}

/// Reads a text that is JSON to its end: `429 Too Many Requests` is not the number 429.
fn of_text<T: DeserializeOwned>(
    text: &str,
) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    let value = T::deserialize(PathDeserializer::new(&mut json, &mut track));
    value
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| serde_path_to_error::Error::new(track.path(), error))
}

/// A tool's answer is not of the type that was asked for, or is an error.
#[derive(Debug)]
pub struct DecodeError {
    tool: Arc<str>,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    /// The tool reports an error, with this text.
    Reported(String),
    Differs {
        path: String,
        source: Mismatch,
    },
}

/// How the answer differs: what serde says, which quotes the answer, cut.
#[derive(Debug)]
struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Mismatch {}

impl DecodeError {
    /// Where the answer differs, such as `tracks[2].title`. Names in it are the server's: they are
    /// escaped, and a long path is cut. `None` where the tool reports an error.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match &self.reason {
            Reason::Reported(_) => None,
            Reason::Differs { path, .. } => Some(path),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tool = Quoted(&self.tool);
        match &self.reason {
            Reason::Reported(text) if text.is_empty() => {
                write!(f, "tool {tool} reports an error and does not say which")
            }
            Reason::Reported(text) => write!(f, "tool {tool} reports an error: {text}"),
            Reason::Differs { path, .. } => write!(
                f,
                "the answer of tool {tool} is not what was asked for, at `{path}`"
            ),
        }
    }
}

impl Error for DecodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Reason::Reported(_) => None,
            Reason::Differs { source, .. } => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(result: Value) -> ToolResponse {
        let result = serde_json::from_value(result).unwrap();
        ToolResponse::new("list".into(), result, &Classifier::default())
    }

    #[test]
    fn structured_content_goes_before_text() {
        let response = response(json!({
            "content": [{ "type": "text", "text": "not json" }],
            "structuredContent": [1, 2],
        }));
        assert_eq!(response.into::<Vec<u8>>().unwrap(), [1, 2]);
    }

    #[test]
    fn a_text_that_is_json_is_read() {
        let response = response(json!({ "content": [{ "type": "text", "text": "[3]" }] }));
        assert_eq!(response.into::<Vec<u8>>().unwrap(), [3]);
    }

    #[test]
    fn a_text_that_only_begins_as_json_is_not_read() {
        let text = "429 Too Many Requests";
        let response = response(json!({ "content": [{ "type": "text", "text": text }] }));
        assert!(response.into::<u32>().is_err());
    }

    #[test]
    fn a_difference_is_named_by_its_path() {
        let response = response(json!({ "content": [], "structuredContent": [1, "two"] }));
        let error = response.into::<Vec<u8>>().unwrap_err();
        assert_eq!(error.path(), Some("[1]"));
        assert!(error.source().is_some());
    }

    #[test]
    fn an_error_that_the_tool_reports_is_no_value() {
        let says = |text: &str| {
            let response = response(json!({
                "content": [{ "type": "text", "text": text }],
                "structuredContent": { "playlist": "p1" },
                "isError": true,
            }));
            response.into::<Value>().unwrap_err()
        };
        let error = says("no such playlist");
        assert_eq!(error.path(), None);
        let expected = "tool \"list\" reports an error: no such playlist";
        assert_eq!(error.to_string(), expected);
        let error = says("");
        let expected = "tool \"list\" reports an error and does not say which";
        assert_eq!(error.to_string(), expected);
        let error = says(&"\u{1b}[31m".repeat(10_000)).to_string();
        assert!(error.len() < 5000 && !error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn a_path_and_a_reason_are_cut_and_escaped() {
        let name = "\u{1b}[31m".repeat(10_000);
        let response = response(json!({ "content": [], "structuredContent": { &name: name } }));
        let error = response
            .into::<std::collections::HashMap<String, u8>>()
            .unwrap_err();
        let (reason, longest) = (error.source().unwrap().to_string(), 400 * 10);
        for text in [
            error.path().unwrap(),
            &reason,
            &error.to_string(),
            &format!("{error:?}"),
        ] {
            assert!(
                text.len() <= longest * 2 && !text.contains('\u{1b}'),
                "{text}"
            );
        }
        assert!(
            error.path().unwrap().ends_with('…') && reason.contains("invalid type"),
            "{reason}"
        );
    }

    #[test]
    fn a_text_that_goes_too_deep_is_refused() {
        for open in ["[", "{\"a\":"] {
            let text = open.repeat(100_000);
            let response = response(json!({ "content": [{ "type": "text", "text": text }] }));
            let error = response.into::<Value>().unwrap_err();
            let reason = error.source().unwrap().to_string();
            assert!(reason.contains("recursion limit"), "{reason}");
            assert!(error.to_string().len() < 1000, "{error}");
        }
    }
}
