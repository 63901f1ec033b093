//! A client that calls tools and reads what they answer.

use rmcp::ServiceExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    ProtocolVersion,
};
use rmcp::service::{ClientInitializeError, Peer, RoleClient, RunningService, ServiceError};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) type Client = RunningService<RoleClient, ClientConfig>;

/// A client that shakes hands with `initialize`, as ours do.
pub(crate) async fn connect(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
) -> Result<Client, ClientInitializeError> {
    let implementation = Implementation::new("a-test", "1");
    let config = ClientConfig::new(ClientCapabilities::default(), implementation)
        .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE);
    config.serve(stream).await
}

pub(crate) fn request(tool: &'static str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else {
        panic!("arguments are an object")
    };
    CallToolRequestParams::new(tool).with_arguments(arguments)
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) is_error: bool,
    pub(crate) content: Option<Value>,
    pub(crate) text: String,
}

impl From<CallToolResult> for Reply {
    fn from(result: CallToolResult) -> Self {
        let texts = result.content.iter().filter_map(|block| block.as_text());
        Self {
            is_error: result.is_error == Some(true),
            text: texts.map(|text| text.text.as_str()).collect(),
            content: result.structured_content,
        }
    }
}

/// Calls a tool.
pub(crate) async fn send(
    peer: &Peer<RoleClient>,
    tool: &'static str,
    arguments: Value,
) -> Result<Reply, ServiceError> {
    let result = peer.call_tool(request(tool, arguments)).await?;
    Ok(result.into())
}

/// Calls a tool that answers.
pub(crate) async fn call(peer: &Peer<RoleClient>, tool: &'static str, arguments: Value) -> Reply {
    send(peer, tool, arguments).await.unwrap()
}
