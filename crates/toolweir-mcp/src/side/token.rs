//! The token of a server that holds it itself, and has tools to look at it and to renew it.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use toolweir_core::{AsRejection as _, BoxError, BoxFuture};
use toolweir_token_freshness::{TokenError, TokenLife, TokenSource};
use tower::ServiceExt as _;

use crate::{ToolCall, ToolResponse, ToolService, classify::bounded_by, hostile::Quoted};

/// No token lives longer: a server that says so has a bug in its units.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// What a token tool may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The names of a server's token tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTools {
    status: Arc<str>,
    refresh: Arc<str>,
}

impl Default for TokenTools {
    /// `token_status` and `refresh_token`.
    fn default() -> Self {
        Self::new("token_status", "refresh_token")
    }
}

impl TokenTools {
    /// The tool that tells what is left of the token, and the tool that renews it.
    ///
    /// Both answer with structured content, or a text that is JSON: `expires_in_ms`, or
    /// `expires_in` in seconds as OAuth has it; and `valid`, which counts first where it is false.
    /// An error `invalid_grant` means that no refresh can succeed until somebody acts.
    #[must_use]
    pub fn new(status: impl Into<Arc<str>>, refresh: impl Into<Arc<str>>) -> Self {
        Self {
            status: status.into(),
            refresh: refresh.into(),
        }
    }
}

/// Looks after the token of a server that holds it itself.
///
/// The calls go around the token layer, or they would wait for themselves.
#[derive(Clone)]
pub struct ToolTokenSource {
    service: ToolService,
    tools: TokenTools,
}

impl ToolTokenSource {
    /// Calls `tools` through `service`.
    #[must_use]
    pub const fn new(service: ToolService, tools: TokenTools) -> Self {
        Self { service, tools }
    }

    async fn ask(&self, tool: &Arc<str>) -> Result<TokenLife, TokenError> {
        let call = ToolCall::new(tool.clone()).with_timeout(TIMEOUT);
        match self.service.clone().oneshot(call).await {
            Ok(response) => read(tool, &response),
            Err(error) => {
                let retry_after = error.retry_after();
                // A refusal of a layer stays one: it is no failure of the token's.
                let source = match error.as_rejection() {
                    Some(rejection) => BoxError::from(rejection.clone()),
                    None => BoxError::from(error),
                };
                let error = TokenError::unavailable(source);
                Err(match retry_after {
                    Some(wait) => error.with_retry_after(wait),
                    None => error,
                })
            }
        }
    }
}

impl TokenSource for ToolTokenSource {
    fn current(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        Box::pin(self.ask(&self.tools.status))
    }

    fn refresh(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        Box::pin(self.ask(&self.tools.refresh))
    }
}

impl fmt::Debug for ToolTokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolTokenSource")
            .field("tools", &self.tools)
            .finish_non_exhaustive()
    }
}

fn read(tool: &str, response: &ToolResponse) -> Result<TokenLife, TokenError> {
    let parsed: Option<Value>;
    let fields = match response.structured() {
        Some(structured) => Some(structured),
        None => {
            parsed = serde_json::from_str(response.text()).ok();
            parsed.as_ref()
        }
    };
    let fields = fields.and_then(Value::as_object);
    if response.is_error() {
        let code = fields
            .and_then(|fields| fields.get("error"))
            .and_then(Value::as_str);
        let said = format!("tool {tool:?} answered {}", Quoted(response.text()));
        if code == Some("invalid_grant") {
            let recovery = "authorise the server again, then reset the token layer";
            return Err(TokenError::rejected(said, recovery));
        }
        let error = TokenError::unavailable(said);
        return Err(match response.retry_after() {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        });
    }
    fields.and_then(life).ok_or_else(|| {
        TokenError::unavailable(format!(
            "tool {tool:?} does not tell `expires_in_ms` or `expires_in`: {}",
            Quoted(response.text())
        ))
    })
}

/// What the fields say of the token's life, if they say it in numbers that can be true.
fn life(fields: &Map<String, Value>) -> Option<TokenLife> {
    if fields.get("valid") == Some(&Value::Bool(false)) {
        return Some(TokenLife::EXPIRED);
    }
    let number = |name| fields.get(name).and_then(Value::as_f64);
    let seconds = match number("expires_in_ms") {
        Some(millis) => millis / 1e3,
        None => number("expires_in")?,
    };
    bounded_by(seconds, LONGEST_LIFE).map(TokenLife::of)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::classify::{Classifier, tests::quick};

    fn answer(result: Value) -> Result<TokenLife, TokenError> {
        let result = serde_json::from_value(result).unwrap();
        read(
            "refresh_token",
            &ToolResponse::new("refresh_token".into(), result, &Classifier::default()),
        )
    }

    fn structured(fields: &Value) -> Result<TokenLife, TokenError> {
        answer(json!({ "content": [], "structuredContent": fields }))
    }

    #[test]
    fn a_life_is_read_in_either_unit() {
        let hour = TokenLife::of(Duration::from_secs(3600));
        assert_eq!(
            structured(&json!({ "expires_in_ms": 3_600_000 })).unwrap(),
            hour
        );
        assert_eq!(structured(&json!({ "expires_in": 3600 })).unwrap(), hour);
        let text = json!({ "content": [{ "type": "text", "text": "{\"expires_in\": 3600}" }] });
        assert_eq!(answer(text).unwrap(), hour);
    }

    #[test]
    fn a_token_that_is_not_valid_has_expired_whatever_its_time() {
        let fields = json!({ "valid": false, "expires_in_ms": 5000 });
        assert_eq!(structured(&fields).unwrap(), TokenLife::EXPIRED);
    }

    #[test]
    fn a_rejected_grant_is_told_from_a_failure() {
        let error = |fields: Value| {
            answer(json!({ "content": [], "isError": true, "structuredContent": fields }))
        };
        let rejected = error(json!({ "error": "invalid_grant" }));
        assert!(matches!(rejected, Err(TokenError::Rejected { .. })));
        let failed = error(json!({ "error": "try_later", "status": 429, "retry_after_ms": 50 }));
        let Err(TokenError::Unavailable { retry_after, .. }) = failed else {
            panic!("a failure is not final");
        };
        assert_eq!(retry_after, Some(Duration::from_millis(50)));
    }

    #[test]
    fn an_answer_without_a_life_is_a_failure() {
        assert!(structured(&json!({ "expires_in": "soon" })).is_err());
        assert!(structured(&json!({ "expires_in": -1 })).is_err());
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_number_makes_an_endless_token(seconds in prop::num::f64::ANY) {
            if let Ok(life) = structured(&json!({ "expires_in": seconds })) {
                prop_assert!(life.expires_in.is_some_and(|life| life <= LONGEST_LIFE));
            }
        }

        #[test]
        fn no_text_stops_the_reader_or_is_told_in_full(
            text in prop_oneof![".{0,4000}", "\\[{0,4000}", "\\{\"expires_in\": ?[0-9eE.-]{0,4000}\\}"],
            is_error in any::<bool>(),
        ) {
            let content = json!([{ "type": "text", "text": text }]);
            match answer(json!({ "content": content, "isError": is_error })) {
                Ok(life) => prop_assert!(life.expires_in.is_none_or(|life| life <= LONGEST_LIFE)),
                Err(error) => prop_assert!(error.to_string().len() < 4000, "{}", error),
            }
        }
    }
}
