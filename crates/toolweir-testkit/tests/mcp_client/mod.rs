//! A client that calls tools and reads what they answer.

use rmcp::ServiceExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    ProtocolVersion,
};
use rmcp::service::{ClientInitializeError, Peer, RoleClient, RunningService, ServiceError};
use rmcp::transport::IntoTransport;
use serde_json::Value;

pub(crate) type Client = RunningService<RoleClient, ClientConfig>;

/// A client that shakes hands with `initialize`, as ours do.
pub(crate) async fn connect<T, E, A>(transport: T) -> Result<Client, ClientInitializeError>
where
    T: IntoTransport<RoleClient, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    config().serve(transport).await
}

pub(crate) fn config() -> ClientConfig {
    let implementation = Implementation::new("a-test", "1");
    ClientConfig::new(ClientCapabilities::default(), implementation)
        .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
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
