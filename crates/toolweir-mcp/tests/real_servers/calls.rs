//! Calls that end, whatever the server does.

use tokio::time::timeout;
use toolweir_mcp::{McpService, ToolCall, ToolError, ToolResponse};
use tower::ServiceExt as _;

use crate::PATIENCE;

pub(crate) type Answer = Result<ToolResponse, ToolError>;

pub(crate) async fn call(mcp: &McpService, call: ToolCall) -> Answer {
    let answer = timeout(PATIENCE, mcp.clone().oneshot(call)).await;
    answer.unwrap()
}

/// The answer of a call that succeeds.
pub(crate) async fn answer(mcp: &McpService, wanted: ToolCall) -> ToolResponse {
    let tool = wanted.tool().to_owned();
    let answer = call(mcp, wanted).await.unwrap();
    assert!(!answer.is_error(), "{tool}: {}", answer.text());
    answer
}

/// The names of the server's tools.
pub(crate) async fn tools(mcp: &McpService) -> Vec<String> {
    let tools = timeout(PATIENCE, mcp.handle().list_tools()).await;
    let tools = tools.unwrap().unwrap().into_iter();
    tools.map(|tool| tool.name.into_owned()).collect()
}
