//! Where the servers are.

use std::{env, fmt, path::PathBuf, process::Stdio, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::server::PATH;

/// How long a TCP connection that nobody uses is kept: longer than a run takes.
const KEEP_ALIVE: Duration = Duration::from_secs(90);

/// What lies between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Memory,
    Stdio,
    Http,
}

impl FromStr for Transport {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "memory" => Self::Memory,
            "stdio" => Self::Stdio,
            "http" => Self::Http,
            _ => bail!("there are memory, stdio and http"),
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Memory => "memory",
            Self::Stdio => "stdio",
            Self::Http => "http",
        })
    }
}

/// How a run's servers are reached.
#[derive(Debug)]
pub(crate) enum Site {
    /// A server for each connection, in a task of its own.
    Memory,
    /// A server for each connection, in a process of its own.
    Stdio(PathBuf),
    /// One server for all, in a process of its own.
    Http(Http),
}

/// A server over HTTP, and the client that all share, with its TCP connections.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    // It ends when its stdin does, which is when this is dropped, however that comes about.
    _server: Child,
}

impl Site {
    pub(crate) async fn open(transport: Transport) -> Result<Self> {
        Ok(match transport {
            Transport::Memory => Self::Memory,
            Transport::Stdio => Self::Stdio(this_program()?),
            Transport::Http => Self::Http(Http::start().await?),
        })
    }
}

impl Http {
    async fn start() -> Result<Self> {
        let mut server = Command::new(this_program()?)
            .arg("serve-http")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the server over HTTP")?;
        let stdout = server.stdout.take().context("the server has no stdout")?;
        let port = BufReader::new(stdout).lines().next_line().await?;
        let port = port.context("the server over HTTP ended before it told its port")?;
        Ok(Self {
            url: format!("http://127.0.0.1:{port}{PATH}"),
            client: reqwest::Client::builder()
                .pool_idle_timeout(KEEP_ALIVE)
                .build()?,
            _server: server,
        })
    }
}

fn this_program() -> Result<PathBuf> {
    env::current_exe().context("cannot find this program, which is also the server")
}
