//! The server's process, and what makes sure that it ends.

use std::{
    ffi::OsString,
    fmt, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use process_wrap::tokio::{ChildWrapper, CommandWrap, ProcessGroup};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{Error, Options, executable, log};

/// How long a server may take to end by itself when asked.
const GRACE: Duration = Duration::from_secs(10);
const SIGTERM: i32 = 15;

/// Waits for the end of a pipe that only this process holds, then ends a process group.
///
/// The pipe closes with the process, whatever ended it. A shell does this without `unsafe` and on
/// every Unix; Linux's parent-death signal would be sent when the *thread* that started the server
/// ends, and so would end a server that several tests share.
const WATCHDOG: &str = "read -r line; kill -s KILL -- \"-$0\"";

/// A started server. Dropping it kills the whole process group.
pub(super) struct Process {
    child: Box<dyn ChildWrapper>,
    watchdog: Option<Child>,
    port: u16,
    log: PathBuf,
    /// A namespace that only this server has. A connection that finds it has reached this server,
    /// and not another one that took the port first.
    birthmark: String,
}

impl Process {
    /// Starts `temporal server start-dev` on ports that are free at this moment.
    pub(super) fn start(temporal: &Path, options: &Options) -> Result<Self, Error> {
        let ports = free_ports().map_err(Error::io("find a free port on", "127.0.0.1"))?;
        let directory = executable::directory(options).join("temporal");
        let (log, file) = log::create(&directory, ports.grpc)?;
        let duplicate = file
            .try_clone()
            .map_err(Error::io("share the log file", &log))?;
        let birthmark = format!("testkit-{}", ports.unique_name());

        let mut command = Command::new(temporal);
        command
            .args(arguments(ports, &birthmark, options))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(duplicate)
            .kill_on_drop(true);
        let child = CommandWrap::from(command)
            .wrap(ProcessGroup::leader())
            .spawn()
            .map_err(Error::io("run", temporal))?;
        let watchdog = child.id().and_then(|group| watch(group).ok());
        if watchdog.is_none() {
            tracing::warn!("no watchdog: a test process that is killed leaves its server behind");
        }
        Ok(Self {
            child,
            watchdog,
            port: ports.grpc,
            log,
            birthmark,
        })
    }

    pub(super) fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    pub(super) fn birthmark(&self) -> &str {
        &self.birthmark
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// How the process ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        // An error would mean that somebody else reaped it. Then it ended as well, and the
        // readiness deadline says so.
        self.child.try_wait().ok().flatten()
    }

    /// Asks the server to end, and ends it if it does not.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        if self.ended().is_none() {
            // It may end between the look and the signal, which is what we want anyway.
            drop(self.child.signal(SIGTERM));
        }
        if timeout(GRACE, self.child.wait()).await.is_err() {
            drop(self.child.start_kill());
            self.child
                .wait()
                .await
                .map_err(Error::io("wait for the end of the server, see", &self.log))?;
        }
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.kill().await);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // No-ops on processes that ended. The watchdog goes first: its pipe closes right after.
        if let Some(watchdog) = &mut self.watchdog {
            drop(watchdog.start_kill());
        }
        if self.ended().is_none() {
            drop(self.child.start_kill());
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("id", &self.child.id())
            .field("port", &self.port)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// Ends `group` when this process is gone. In a group of its own, so that what ends the tests from
/// a terminal does not end it first.
fn watch(group: u32) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", WATCHDOG, &group.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The ports that the server is told. It chooses those for its inner services itself.
#[derive(Debug, Clone, Copy)]
struct Ports {
    grpc: u16,
    http: u16,
    metrics: u16,
}

impl Ports {
    /// Unique on this machine: nobody else has these ports of this process at this time.
    fn unique_name(self) -> String {
        let id = std::process::id();
        format!("{id}-{}-{}-{}", self.grpc, self.http, self.metrics)
    }
}

/// Held at the same time, so that they differ.
fn free_ports() -> io::Result<Ports> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (grpc, http, metrics) = (listen()?, listen()?, listen()?);
    Ok(Ports {
        grpc: grpc.local_addr()?.port(),
        http: http.local_addr()?.port(),
        metrics: metrics.local_addr()?.port(),
    })
}

fn arguments(ports: Ports, birthmark: &str, options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["server", "start-dev", "--headless", "--ip", "127.0.0.1"]
        .map(OsString::from)
        .into();
    let mut pair = |flag: &str, value: String| arguments.extend([flag.into(), value.into()]);
    pair("--port", ports.grpc.to_string());
    pair("--http-port", ports.http.to_string());
    pair("--metrics-port", ports.metrics.to_string());
    pair("--namespace", birthmark.to_owned());
    for namespace in &options.namespaces {
        pair("--namespace", namespace.clone());
    }
    for (key, value) in &options.dynamic_config {
        pair("--dynamic-config-value", format!("{key}={value}"));
    }
    arguments.extend(options.arguments.iter().map(OsString::from));
    arguments
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, BufReader},
        time::{Instant, sleep},
    };

    use super::*;

    #[test]
    fn the_ports_differ_and_are_passed_on() {
        let ports = free_ports().unwrap();
        assert_ne!(ports.grpc, ports.http);
        assert_ne!(ports.http, ports.metrics);

        let options = Options::new()
            .namespace("sync")
            .dynamic_config("a.b", "true")
            .argument("--last");
        let arguments = arguments(ports, "mark", &options).join(" ".as_ref());
        let arguments = arguments.to_string_lossy();
        assert!(arguments.contains(&format!("--port {}", ports.grpc)));
        assert!(arguments.contains("--namespace mark --namespace sync"));
        assert!(arguments.ends_with("--dynamic-config-value a.b=true --last"));
    }

    /// The watchdog, without a server: a shell stands in for it.
    #[tokio::test]
    async fn the_watchdog_ends_the_group_when_its_pipe_closes() {
        let mut command = Command::new("sh");
        // A grandchild too: the group is ended, not just its leader.
        command
            .args(["-c", "sleep 600 & echo up; wait"])
            .stdout(Stdio::piped());
        let mut server = CommandWrap::from(command)
            .wrap(ProcessGroup::leader())
            .spawn()
            .unwrap();
        let stdout = server.stdout().take().unwrap();
        let mut lines = BufReader::new(stdout).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("up"));

        let mut watchdog = watch(server.id().unwrap()).unwrap();
        drop(watchdog.stdin.take());
        let ended = timeout(Duration::from_secs(30), server.wait()).await;
        assert!(!ended.unwrap().unwrap().success());
        // The pipe's last writer was the grandchild.
        let rest = timeout(Duration::from_secs(30), lines.next_line()).await;
        assert_eq!(rest.unwrap().unwrap(), None);
    }

    #[tokio::test]
    async fn an_open_pipe_keeps_the_watchdog_waiting_and_dropping_it_ends_it() {
        let mut watchdog = watch(1_999_999).unwrap();
        assert!(watchdog.try_wait().unwrap().is_none());
        watchdog.start_kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while watchdog.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the watchdog outlives its kill");
            sleep(Duration::from_millis(10)).await;
        }
    }
}
