//! How a connection is made.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use rmcp::{
    RoleClient,
    service::{ClientInitializeError, serve_client_with_lifecycle},
    transport::IntoTransport,
};
use tokio::time::{Instant, timeout_at};
use toolweir_core::{BoxError, BoxFuture};

use super::{
    ConnectError, Connecting,
    dialect::Dialect,
    ending::Alive,
    listener::{Client, Listener},
    pipes::Pipes,
    place::Place,
    process::Process,
};
use crate::StdioServer;

/// After the pipe of a server has closed, how long its exit status may take to arrive.
const EXIT_STATUS_WITHIN: Duration = Duration::from_millis(500);

/// Why an attempt ends that finds no place.
const NO_PLACE: &str = "all connections are in use";

/// The ways to reach a server.
#[derive(Clone, Debug)]
pub(crate) enum Connector {
    Stdio(StdioServer),
    #[cfg(feature = "http")]
    Http(crate::http::Endpoint),
    Factory(Factory),
}

type Shaken = Result<Client, ClientInitializeError>;
type Handshake = BoxFuture<'static, Result<Shaken, BoxError>>;

/// Makes a transport and shakes hands over it. The types of transports end here.
#[derive(Clone)]
pub(crate) struct Factory(Arc<dyn Fn(Listener, Dialect, Place) -> Handshake + Send + Sync>);

impl Factory {
    pub(crate) fn new<M, Fut, T, E, A>(make: M) -> Self
    where
        M: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: IntoTransport<RoleClient, E, A> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        A: 'static,
    {
        Self(Arc::new(move |listener, dialect, place| {
            let transport = make();
            Box::pin(async move {
                // Who has no transport takes nobody's place.
                let transport = transport.await?;
                if !place.take() {
                    return Err(NO_PLACE.into());
                }
                Ok(shake_hands(transport, listener, dialect).await)
            })
        }))
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Factory")
    }
}

async fn shake_hands<T, E, A>(transport: T, listener: Listener, dialect: Dialect) -> Shaken
where
    T: IntoTransport<RoleClient, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    serve_client_with_lifecycle(listener, transport, dialect.lifecycle()).await
}

/// What one attempt is given, beside the way to the server.
#[derive(Clone)]
pub(super) struct Attempted<'a> {
    pub(super) server: &'a Arc<str>,
    pub(super) within: Duration,
    /// Until when, which is `within` from the start.
    pub(super) until: Instant,
    pub(super) most_bytes: usize,
    pub(super) listener: Listener,
    /// For the processes to hold.
    pub(super) alive: Alive,
    /// The place that the connection takes.
    pub(super) place: Place,
}

impl Connector {
    /// Whether each request has a stream of its own.
    pub(super) const fn is_http(&self) -> bool {
        #[cfg(feature = "http")]
        let is_http = matches!(self, Self::Http(_));
        #[cfg(not(feature = "http"))]
        let is_http = false;
        is_http
    }

    /// The program's name, where the server is one of ours.
    pub(super) fn program(&self) -> Option<Box<str>> {
        match self {
            Self::Stdio(server) => Some(server.program.to_string_lossy().into()),
            #[cfg(feature = "http")]
            Self::Http(_) => None,
            Self::Factory(_) => None,
        }
    }

    /// Makes one connection, in the dialect that is tried first or else in the other one; `dialect`
    /// is then the one that the server speaks. What it starts in vain has ended when it returns; where
    /// it is dropped that is killed, and ends when nobody holds the attempt's `alive` any more.
    pub(super) async fn connect(
        &self,
        attempted: &Attempted<'_>,
        dialect: &mut Dialect,
    ) -> Result<(Client, Option<Process>), ConnectError> {
        let first = self.connect_in(*dialect, attempted).await;
        let Err(error) = first else {
            return first;
        };
        if !error.speaks_otherwise {
            return Err(error);
        }
        let other = dialect.other();
        match self.connect_in(other, attempted).await {
            Ok(connected) => {
                *dialect = other;
                Ok(connected)
            }
            // The first answer is to the handshake that nearly all servers know.
            Err(second) if second.speaks_otherwise => Err(error),
            Err(second) => Err(second),
        }
    }

    /// Takes the place of a process, which costs as much as a connection from its start on. A factory
    /// takes one when it has a transport, and over HTTP whoever the server lets in: so far there must be one
    /// to take.
    fn may_begin(&self, place: &Place) -> bool {
        match self {
            Self::Stdio(_) => place.take(),
            #[cfg(feature = "http")]
            Self::Http(_) => place.is_there(),
            Self::Factory(_) => true,
        }
    }

    async fn connect_in(
        &self,
        dialect: Dialect,
        attempted: &Attempted<'_>,
    ) -> Result<(Client, Option<Process>), ConnectError> {
        let error = ConnectError::new(Connecting::Start, attempted.server, self, attempted.within);
        let (listener, until) = (attempted.listener.clone(), attempted.until);
        if !self.may_begin(&attempted.place) {
            return Err(error.because(NO_PLACE.into()));
        }
        let (shaken, process) = match self {
            Self::Stdio(program) => {
                let alive = attempted.alive.clone();
                let started = Process::start(attempted.server, program, alive);
                let (process, stdout, stdin) = match started {
                    Ok(started) => started,
                    Err(failed) => return Err(error.because(failed.into())),
                };
                let transport = Pipes::new(attempted.server, stdout, stdin, attempted.most_bytes);
                let shaking = shake_hands(transport, listener, dialect);
                (timeout_at(until, shaking).await, Some(process))
            }
            #[cfg(feature = "http")]
            Self::Http(endpoint) => {
                let transport = endpoint.transport(attempted.most_bytes, listener.listening());
                let shaking = shake_hands(transport, listener, dialect);
                (timeout_at(until, shaking).await, None)
            }
            Self::Factory(Factory(shake)) => {
                let place = attempted.place.clone();
                match timeout_at(until, shake(listener, dialect, place)).await {
                    Ok(Err(failed)) => return Err(error.because(failed)),
                    Ok(Ok(shaken)) => (Ok(shaken), None),
                    Err(late) => (Err(late), None),
                }
            }
        };
        let error = match shaken {
            Ok(Ok(client)) => match dialect.checked(client) {
                Ok(client) if attempted.place.take() => return Ok((client, process)),
                Ok(_) => error.because(NO_PLACE.into()),
                Err(unknown) => error.at(Connecting::Handshake).because(unknown),
            },
            Ok(Err(failed)) => error.refused(failed),
            Err(_) => error.at(Connecting::TimedOut),
        };
        Err(match process {
            Some(process) => post_mortem(process, error).await,
            None => error,
        })
    }
}

/// Ends a process that is of no use, and adds what it can tell of its end.
async fn post_mortem(mut process: Process, mut error: ConnectError) -> ConnectError {
    if error.connecting == Connecting::Handshake
        && !error.speaks_otherwise
        && let Some(status) = process.ended(EXIT_STATUS_WITHIN).await
    {
        // How it ended says more than that its pipe closed.
        error.ended = Some(status.to_string());
        error.source = None;
    }
    // Beside one that will not end no other is started, in whatever dialect.
    error.speaks_otherwise &= process.kill().await;
    error.last_words = process.last_words().await;
    error
}

#[cfg(test)]
mod tests {
    use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

    use super::{super::ending::life, *};

    /// How an attempt at a shell's script ends, which begins by writing its process id to stderr.
    async fn fails(script: &str, within: Duration) -> (ConnectError, Option<Pid>) {
        let script = format!("echo $$ >&2; {script}");
        let connector = Connector::Stdio(StdioServer::new("sh").args(["-c", &script]));
        let attempted = Attempted {
            server: &Arc::from("music"),
            within,
            until: Instant::now() + within,
            most_bytes: 4096,
            listener: Listener::default(),
            alive: life().0,
            place: Place::new(None),
        };
        let connecting = connector.connect_in(Dialect::Initialize, &attempted);
        let error = connecting.await.err().unwrap();
        let process = error.last_words.as_ref();
        let process = process.map(|words| Pid::from_raw(words.parse().unwrap()));
        (error, process)
    }

    fn is_gone(process: Pid) -> bool {
        // One that has ended, and was not waited for, would be there.
        kill(process, None) == Err(Errno::ESRCH)
    }

    #[tokio::test]
    async fn a_process_that_speaks_otherwise_is_gone_before_the_next_is_started() {
        let script = r#"read line
            echo '{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"initialize?"}}'
            sleep 1000"#;
        let (error, process) = fails(script, Duration::from_secs(60)).await;
        assert!(is_gone(process.unwrap()));
        assert!(error.speaks_otherwise, "{error}");
    }

    #[tokio::test]
    async fn a_process_that_is_silent_is_gone_when_its_time_is_over() {
        // On a busy machine it may not come so far as to say who it is.
        let process = loop {
            let (error, process) = fails("sleep 1000", Duration::from_millis(200)).await;
            assert_eq!(error.connecting, Connecting::TimedOut);
            if let Some(process) = process {
                break process;
            }
        };
        assert!(is_gone(process));
    }
}
