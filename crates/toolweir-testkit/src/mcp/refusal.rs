//! The answers that say no.

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::json;

pub(super) fn fail() -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text("the tool failed, as told")])
}

pub(super) fn throttle(retry_after_ms: u64) -> CallToolResult {
    CallToolResult::structured_error(json!({
        "status": 429,
        "error": "rate_limited",
        "retry_after_ms": retry_after_ms,
    }))
}

/// What a server built on exceptions makes of an upstream's refusal.
pub(super) fn text_throttle() -> CallToolResult {
    let text = "429 Too Many Requests: retry after 3s";
    CallToolResult::error(vec![ContentBlock::text(text)])
}

pub(super) fn unauthorised() -> CallToolResult {
    CallToolResult::structured_error(json!({ "status": 401, "error": "token_expired" }))
}

pub(super) fn invalid_grant() -> CallToolResult {
    CallToolResult::structured_error(json!({ "error": "invalid_grant" }))
}
