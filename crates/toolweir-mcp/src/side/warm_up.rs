//! Steps of a warm-up.

use std::fmt;

use toolweir_core::{BoxError, BoxFuture, WarmUp};
use tower::ServiceExt as _;

use crate::{McpHandle, ToolCall, ToolError, ToolService};

/// Connects: starts the server, shakes hands and reads its list of tools.
#[derive(Debug, Clone)]
pub struct Connect {
    mcp: McpHandle,
}

impl Connect {
    /// Connects to the server of `mcp`.
    #[must_use]
    pub const fn new(mcp: McpHandle) -> Self {
        Self { mcp }
    }
}

impl WarmUp for Connect {
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async { Ok(self.mcp.connect().await.map_err(without_wait)?) })
    }
}

/// The error of a step, without the connection's own wait. The warm-up rests as long as it thinks right
/// and tells that; a second time beside it, of another clock, would only be read as a contradiction.
fn without_wait(mut error: ToolError) -> ToolError {
    if let ToolError::Unavailable { retry_after, .. } = &mut error {
        *retry_after = None;
    }
    error
}

/// Makes one cheap call: some servers do half of their start in the first one.
///
/// It must go around the warm-up layer, or it would wait for itself; and it should go through the
/// rate limit, because it costs quota as any call.
#[derive(Clone)]
pub struct FirstCall {
    service: ToolService,
    call: ToolCall,
}

impl FirstCall {
    /// Makes `call` through `service`. Choose a tool that changes nothing.
    #[must_use]
    pub const fn new(service: ToolService, call: ToolCall) -> Self {
        Self { service, call }
    }
}

impl WarmUp for FirstCall {
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async {
            // Whatever the tool answers, the server has answered.
            let called = self.service.clone().oneshot(self.call.clone()).await;
            called.map_err(without_wait)?;
            Ok(())
        })
    }
}

impl fmt::Debug for FirstCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstCall")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
