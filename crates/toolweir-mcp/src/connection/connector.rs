//! How a connection is made.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use rmcp::{
    RoleClient,
    model::{ClientCapabilities, ClientConfig, Implementation, ProtocolVersion},
    service::{ClientInitializeError, RunningService, serve_client},
    transport::IntoTransport,
};
use toolweir_core::{BoxError, BoxFuture};

use super::{ConnectError, Connecting, process::Process};
use crate::StdioServer;

/// The client's end of a connection.
pub(crate) type Client = RunningService<RoleClient, ClientConfig>;

/// After the pipe of a server has closed, how long its exit status may take to arrive.
const EXIT_STATUS_WITHIN: Duration = Duration::from_millis(500);

/// The ways to reach a server.
#[derive(Clone, Debug)]
pub(crate) enum Connector {
    Stdio(StdioServer),
    Factory(Factory),
}

type Handshake = Result<Result<Client, ClientInitializeError>, BoxError>;

/// Makes a transport and shakes hands over it. The types of transports end here.
#[derive(Clone)]
pub(crate) struct Factory(Arc<dyn Fn() -> BoxFuture<'static, Handshake> + Send + Sync>);

impl Factory {
    pub(crate) fn new<M, Fut, T, E, A>(make: M) -> Self
    where
        M: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: IntoTransport<RoleClient, E, A> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        A: 'static,
    {
        Self(Arc::new(move || {
            let transport = make();
            Box::pin(async move { Ok(serve_client(client(), transport.await?).await) })
        }))
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Factory")
    }
}

/// The newest protocol that begins with `initialize`: a server that speaks a newer one speaks this
/// too, and rmcp would switch into another mode with one that echoes the newest.
fn client() -> ClientConfig {
    ClientConfig::new(
        ClientCapabilities::default(),
        Implementation::new("toolweir", env!("CARGO_PKG_VERSION")),
    )
    .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
}

impl Connector {
    /// The program's name, where the server is one of ours.
    pub(super) fn program(&self) -> Option<Box<str>> {
        match self {
            Self::Stdio(server) => Some(server.program.to_string_lossy().into()),
            Self::Factory(_) => None,
        }
    }

    /// Makes one connection. Dropped, it leaves nothing running.
    pub(crate) async fn connect(
        &self,
        server: &str,
        within: Duration,
    ) -> Result<(Client, Option<Process>), ConnectError> {
        let error = |connecting, source| ConnectError {
            source,
            ..ConnectError::new(connecting, server, self, within)
        };
        match self {
            Self::Stdio(program) => {
                let error = ConnectError::new(Connecting::Start, server, self, within);
                stdio(program, error).await
            }
            Self::Factory(Factory(shake_hands)) => {
                match tokio::time::timeout(within, shake_hands()).await {
                    Ok(Ok(Ok(client))) => Ok((client, None)),
                    Ok(Ok(Err(failed))) => Err(error(Connecting::Handshake, Some(failed.into()))),
                    Ok(Err(failed)) => Err(error(Connecting::Start, Some(failed))),
                    Err(_) => Err(error(Connecting::TimedOut, None)),
                }
            }
        }
    }
}

/// Starts the program and shakes hands with it; `error` is completed with what goes wrong.
async fn stdio(
    program: &StdioServer,
    mut error: ConnectError,
) -> Result<(Client, Option<Process>), ConnectError> {
    let (mut process, stdout, stdin) = match Process::start(&error.server, program) {
        Ok(started) => started,
        Err(failed) => {
            error.source = Some(failed.into());
            return Err(error);
        }
    };
    match tokio::time::timeout(error.within, serve_client(client(), (stdout, stdin))).await {
        Ok(Ok(client)) => return Ok((client, Some(process))),
        Ok(Err(failed)) => {
            error.connecting = Connecting::Handshake;
            match process.ended(EXIT_STATUS_WITHIN).await {
                // How it ended says more than that its pipe closed.
                Some(status) => error.ended = Some(status.to_string()),
                None => error.source = Some(failed.into()),
            }
        }
        Err(_) => error.connecting = Connecting::TimedOut,
    }
    error.last_words = process.last_words().await;
    Err(error)
}
