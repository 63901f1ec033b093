//! A server to test against.

use std::{env, error::Error as _, net::SocketAddr, path::Path, time::Duration};

use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, RetryOptions, Url,
    errors::ClientConnectError, grpc::WorkflowService, tonic::IntoRequest,
};
use temporalio_common::protos::temporal::api::{
    enums::v1::TaskQueueType,
    taskqueue::v1::TaskQueue,
    workflowservice::v1::{DescribeNamespaceRequest, DescribeTaskQueueRequest},
};
use tokio::time::{Instant, sleep, timeout};

use super::{Error, Options, executable, log, process::Process};

/// A server on this machine answers in milliseconds, one elsewhere in a second.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at a server that starts.
const READY_POLL: Duration = Duration::from_millis(50);
/// How often a start is tried on other ports, when others take them first.
const STARTS: usize = 5;

/// A Temporal server: one that ran already, or one of ours, which ends with this value.
///
/// See the [module](super) for which of the two, and for what is left behind.
#[derive(Debug)]
pub struct TemporalServer {
    address: String,
    /// None: not ours.
    process: Option<Process>,
}

impl TemporalServer {
    /// Finds a server, or starts one, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is missing and what to do. Nothing is left running.
    pub async fn start(options: Options) -> Result<Self, Error> {
        if let Some(address) = given_address(&options) {
            return Self::attach(&address).await;
        }
        let temporal = executable::locate(&options).await?;
        let mut start = 1;
        loop {
            match Self::launch(&temporal, &options).await {
                Err(error) if error.is_port_race() && start < STARTS => {
                    tracing::info!(%error, start, "a port was taken, starting on others");
                    start += 1;
                }
                result => return result,
            }
        }
    }

    /// Uses the server at `address` (`host:port`), which stays when this value goes.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] and [`Error::Unreachable`].
    pub async fn attach(address: &str) -> Result<Self, Error> {
        let server = Self {
            address: checked(address)?,
            process: None,
        };
        server.connection().await?;
        Ok(server)
    }

    async fn launch(temporal: &Path, options: &Options) -> Result<Self, Error> {
        let mut process = Process::start(temporal, options)?;
        let address = process.address();
        wait_until_ready(&mut process, &address, options.ready_within).await?;
        tracing::debug!(address, log = %process.log().display(), "a Temporal server runs");
        Ok(Self {
            address,
            process: Some(process),
        })
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The log file of a server of ours.
    #[must_use]
    pub fn log(&self) -> Option<&Path> {
        self.process.as_ref().map(Process::log)
    }

    /// Whether this is a server that ran already. Its namespaces and task queues are shared.
    #[must_use]
    pub const fn is_external(&self) -> bool {
        self.process.is_none()
    }

    /// A new connection. Two workers with one task queue need one each.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], when the server is gone.
    pub async fn connection(&self) -> Result<Connection, Error> {
        let connect = connect(&self.address, RetryOptions::default())?;
        match timeout(CONNECT_WITHIN, connect).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(unreachable(&self.address, None, Some(error))),
            Err(_) => Err(unreachable(&self.address, Some(CONNECT_WITHIN), None)),
        }
    }

    /// A client for `namespace`, on a connection of its own.
    ///
    /// # Errors
    ///
    /// As [`TemporalServer::connection`].
    pub async fn client(&self, namespace: impl Into<String>) -> Result<Client, Error> {
        let options = ClientOptions::new(namespace).build();
        Client::new(self.connection().await?, options)
            .map_err(|error| unreachable(&self.address, None, Some(error.into())))
    }

    /// Ends a server of ours, gracefully if it will, and waits until it is gone. Leaves another
    /// one alone.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], when the process can't be waited for.
    pub async fn stop(mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }
}

/// The address in the environment, if a server that runs already will do.
fn given_address(options: &Options) -> Option<String> {
    let address = env::var("TEMPORAL_ADDRESS").ok()?;
    if address.is_empty() {
        return None;
    }
    if !options.any_server_will_do() {
        tracing::info!(address, "passed over: the options need a server of its own");
        return None;
    }
    Some(address)
}

/// `host:port`, without a scheme.
fn checked(address: &str) -> Result<String, Error> {
    let wrong = |reason: &str| Error::Address {
        address: address.to_owned(),
        reason: reason.to_owned(),
    };
    if address.starts_with("https://") {
        return Err(wrong("asks for TLS, which these tests do not speak"));
    }
    let bare = address.strip_prefix("http://").unwrap_or(address);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let (host, port) = bare
        .rsplit_once(':')
        .ok_or_else(|| wrong("names no port"))?;
    if port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(wrong("has no number from 1 to 65535 as its port"));
    }
    // An IPv6 address needs its brackets, or its last group is taken for the port.
    if host.is_empty() || (host.contains(':') && bare.parse::<SocketAddr>().is_err()) {
        return Err(wrong("has no usable host"));
    }
    Ok(bare.to_owned())
}

fn connect(
    address: &str,
    retries: RetryOptions,
) -> Result<impl Future<Output = Result<Connection, ClientConnectError>>, Error> {
    let url = Url::parse(&format!("http://{address}")).map_err(|error| Error::Address {
        address: address.to_owned(),
        reason: format!("is no address ({error})"),
    })?;
    let options = ConnectionOptions::new(url)
        .identity("toolweir-testkit")
        .connect_timeout(CONNECT_WITHIN)
        .retry_options(retries)
        // One server, so there is nothing to balance.
        .dns_load_balancing(None)
        .build();
    Ok(Connection::connect(options))
}

fn unreachable(
    address: &str,
    waited: Option<Duration>,
    source: Option<ClientConnectError>,
) -> Error {
    Error::Unreachable {
        address: address.to_owned(),
        waited,
        source: source.map(Box::new),
    }
}

/// Asks until *this* server answers, has ended, or is too late.
async fn wait_until_ready(
    process: &mut Process,
    address: &str,
    within: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    let mut last = "none was made".to_owned();
    loop {
        if let Some(status) = process.ended() {
            return Err(Error::Exited {
                status: status.to_string(),
                log_tail: log::tail(process.log()),
                log: process.log().to_owned(),
            });
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::NotReady {
                waited: within,
                last,
                log_tail: log::tail(process.log()),
                log: process.log().to_owned(),
            });
        }
        let attempt_within = CONNECT_WITHIN.min(deadline.saturating_duration_since(now));
        match timeout(attempt_within, is_up(address, process.birthmark())).await {
            Ok(Ok(())) if process.ended().is_none() => return Ok(()),
            Ok(Ok(())) => continue,
            Ok(Err(said)) => last = said,
            Err(_) => last = format!("no answer within {attempt_within:?}"),
        }
        sleep(READY_POLL).await;
    }
}

/// Whether the server with the namespace `birthmark` answers at `address`.
async fn is_up(address: &str, birthmark: &str) -> Result<(), String> {
    let connect = connect(address, RetryOptions::no_retries()).map_err(|e| e.to_string())?;
    let mut connection = connect.await.map_err(|error| {
        let cause = error.source().map(|source| format!(": {source}"));
        format!("{error}{}", cause.unwrap_or_default())
    })?;
    // Its own namespace says who it is; the one that tests use, that it is complete.
    for namespace in [birthmark, "default"] {
        let request = DescribeNamespaceRequest {
            namespace: namespace.to_owned(),
            ..Default::default()
        };
        WorkflowService::describe_namespace(&mut connection, request.into_request())
            .await
            .map_err(|status| format!("namespace {namespace}: {}", status.message()))?;
    }
    // The last of its inner services to start. Where it has found its port taken, the server answers
    // for a moment and then crashes: that is a start in vain.
    let request = DescribeTaskQueueRequest {
        namespace: "temporal-system".to_owned(),
        task_queue: Some(TaskQueue {
            name: "default-worker-tq".to_owned(),
            ..Default::default()
        }),
        task_queue_type: TaskQueueType::Workflow.into(),
        ..Default::default()
    };
    let own = WorkflowService::describe_task_queue(&mut connection, request.into_request());
    let own = own.await.map_err(|status| status.message().to_owned())?;
    if own.into_inner().pollers.is_empty() {
        return Err("its own worker does not poll yet".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port() {
        for (given, expected) in [
            ("127.0.0.1:7233", "127.0.0.1:7233"),
            ("http://temporal.local:7233/", "temporal.local:7233"),
            ("[::1]:7233", "[::1]:7233"),
        ] {
            assert_eq!(checked(given).unwrap(), expected);
        }
        for wrong in [
            "localhost",
            ":7233",
            "localhost:0",
            "localhost:http",
            "::1",
            "https://cloud:7233",
            "",
        ] {
            let error = checked(wrong).unwrap_err();
            assert!(error.to_string().contains("host:port"), "{wrong}: {error}");
        }
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_said_at_once() {
        let port = {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = TemporalServer::attach(&format!("127.0.0.1:{port}"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&port.to_string()), "{error}");
        assert!(error.source().is_some());
    }
}
