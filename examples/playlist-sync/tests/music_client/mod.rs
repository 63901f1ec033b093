//! Calls a music server's tools.

use playlist_sync::music::IDEMPOTENCY_KEY_META;
use rmcp::model::{CallToolRequestParams, CallToolResult, RequestMetaObject};
use rmcp::service::{Peer, RoleClient};
use serde_json::Value;

/// What a tool answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) refused: bool,
    pub(crate) content: Value,
}

impl Reply {
    /// The status of a refusal.
    pub(crate) fn status(&self) -> Option<u64> {
        if self.refused {
            self.content["status"].as_u64()
        } else {
            None
        }
    }
}

impl From<CallToolResult> for Reply {
    fn from(result: CallToolResult) -> Self {
        let refused = result
            .is_error
            .expect("every answer says whether it is an error");
        Self {
            refused,
            content: result
                .structured_content
                .expect("every answer has structure"),
        }
    }
}

pub(crate) fn request(
    tool: &'static str,
    arguments: Value,
    key: Option<&str>,
) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else {
        panic!("arguments are an object")
    };
    let mut request = CallToolRequestParams::new(tool).with_arguments(arguments);
    if let Some(key) = key {
        let mut meta = RequestMetaObject::new();
        meta.insert(IDEMPOTENCY_KEY_META.to_owned(), Value::from(key));
        request.meta = Some(meta);
    }
    request
}

pub(crate) async fn call(
    peer: &Peer<RoleClient>,
    tool: &'static str,
    arguments: Value,
    key: Option<&str>,
) -> Reply {
    peer.call_tool(request(tool, arguments, key))
        .await
        .expect("an answer")
        .into()
}
