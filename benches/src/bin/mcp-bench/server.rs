//! The server that everything is measured against: it answers with what it is given, and does
//! nothing else.

use std::{io::Write as _, sync::Arc};

use anyhow::Result;
use axum::serve::ListenerExt as _;
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, JsonObject,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, stdio_pipes,
        streamable_http_server::session::never::NeverSessionManager,
    },
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    net::TcpListener,
};

use crate::arguments::Serve;

/// The tool.
pub(crate) const TOOL: &str = "echo";
/// The argument that it answers with.
pub(crate) const TEXT: &str = "text";
/// Where it is, over HTTP.
pub(crate) const PATH: &str = "/mcp";

/// How much either end of a connection in memory may write ahead: as much as a pipe's.
const WRITE_AHEAD: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
struct Echo;

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = Tool::new(TOOL, "Answers with its text.", JsonObject::new());
        Ok(ListToolsResult::with_all_items(vec![tool]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let text = request.arguments.and_then(|mut given| given.remove(TEXT));
        let Some(Value::String(text)) = text else {
            return Err(ErrorData::invalid_params("no text", None));
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

/// Serves in a task of its own and returns the client's end.
pub(crate) fn in_memory() -> DuplexStream {
    let (client, server) = tokio::io::duplex(WRITE_AHEAD);
    tokio::spawn(async move {
        if let Ok(serving) = Echo.serve(server).await {
            let _ = serving.waiting().await;
        }
    });
    client
}

/// Is the server, until stdin ends.
pub(crate) fn main(serve: Serve) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        match serve {
            Serve::ServeStdio => stdio().await,
            Serve::ServeHttp => http().await,
        }
    });
    runtime.shutdown_background();
    ended
}

async fn stdio() -> Result<()> {
    Echo.serve(stdio_pipes()).await?.waiting().await?;
    Ok(())
}

/// Without sessions, each answer a piece of JSON: the least that a server over HTTP may do.
async fn http() -> Result<()> {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true);
    let sessions = Arc::new(NeverSessionManager::default());
    let service = StreamableHttpService::new(|| Ok(Echo), sessions, config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    // Without it each answer on a connection that is kept would wait 40 ms for an acknowledgement.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{port}")?;
    stdout.flush()?;
    let (mut stdin, _) = stdio_pipes();
    let mut nothing = Vec::new();
    tokio::select! {
        served = axum::serve(listener, axum::Router::new().nest_service(PATH, service)) => served?,
        _ = stdin.read_to_end(&mut nothing) => {}
    }
    Ok(())
}
