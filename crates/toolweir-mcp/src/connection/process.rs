//! A server's process: its pipes, its stderr, and its end.

use std::{
    collections::VecDeque,
    io,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{errno::Errno, sys::signal::killpg, unistd::Pid};
use process_wrap::tokio::{ChildWrapper, CommandWrap, ProcessGroup};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    runtime::Handle,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{ending::Alive, lock};
use crate::StdioServer;

/// A line of stderr is cut here.
const LONGEST_LINE: u64 = 4 * 1024;
/// How many lines are kept for an error message.
const KEPT_LINES: usize = 5;
/// What a killed process may take to be reaped. Only a kernel in trouble takes longer.
const REAPED_WITHIN: Duration = Duration::from_secs(5);
/// How long the others of a killed group may take to be gone.
const GROUP_GONE_WITHIN: Duration = Duration::from_millis(500);
/// How often that is looked at: nobody tells of the end of another's child.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// After their end, how long the stderr of a process and of all it has started takes to close.
const STDERR_WITHIN: Duration = Duration::from_millis(500);
/// POSIX gives it this number everywhere.
const SIGTERM: i32 = 15;

/// A server's process, and all it has started: dropping it kills them, and has them waited for.
#[derive(Debug)]
pub(crate) struct Process {
    id: Option<u32>,
    last_lines: LastLines,
    /// Taken by the drop alone.
    running: Option<Running>,
}

/// What there is of a process until it is waited for: dropping it kills it.
#[derive(Debug)]
struct Running {
    child: Box<dyn ChildWrapper>,
    group: Pid,
    stderr: JoinHandle<()>,
    /// Until it is waited for, a process keeps its number, ended or not. After that its group must
    /// not be signalled again: the number may be another's.
    reaped: bool,
    _alive: Alive,
}

/// The last lines that a server wrote to stderr.
#[derive(Debug, Clone, Default)]
struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: String) {
        let mut lines = lock(&self.0);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn joined(&self) -> Option<String> {
        let lines = lock(&self.0);
        (!lines.is_empty()).then(|| Vec::from_iter(lines.iter().map(String::as_str)).join("\n"))
    }
}

impl Process {
    /// Starts the program, in a process group of its own. It holds `alive` until it was waited for.
    pub(super) fn start(
        server: &str,
        program: &StdioServer,
        alive: Alive,
    ) -> io::Result<(Self, ChildStdout, ChildStdin)> {
        let mut command = Command::new(&program.program);
        command
            .args(&program.args)
            .envs(program.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(directory) = &program.current_dir {
            command.current_dir(directory);
        }
        let mut command = CommandWrap::from(command);
        command.wrap(ProcessGroup::leader());
        let mut child = command.spawn()?;
        let missing = || io::Error::other("the program has no pipes");
        let stdin = child.stdin().take().ok_or_else(missing)?;
        let stdout = child.stdout().take().ok_or_else(missing)?;
        let stderr = child.stderr().take().ok_or_else(missing)?;
        // It is the leader of its group, which goes by its number.
        let id = child.id();
        let group = id.and_then(|id| id.try_into().ok());
        let group = group.ok_or_else(|| io::Error::other("the program has no process id"))?;
        let last_lines = LastLines::default();
        let reading = read_stderr(server.to_owned(), stderr, last_lines.clone());
        let process = Self {
            id,
            last_lines,
            running: Some(Running {
                child,
                group: Pid::from_raw(group),
                stderr: tokio::spawn(reading),
                reaped: false,
                _alive: alive,
            }),
        };
        Ok((process, stdout, stdin))
    }

    pub(crate) const fn id(&self) -> Option<u32> {
        self.id
    }

    /// What it said last. Where it has ended that is read to the end.
    pub(crate) async fn last_words(&mut self) -> Option<String> {
        if let Some(running) = self.running.as_mut().filter(|running| running.reaped) {
            running.stderr_closed().await;
        }
        self.last_lines.joined()
    }

    /// How it ended, if it does within `patience`. What it has left behind is killed.
    pub(crate) async fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.running.as_mut()?.ended(patience).await
    }

    /// Whether it has ended by now. What it has left behind is killed.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(Running::has_ended)
    }

    /// Kills it, and returns when it has ended: `false` if it has not, which the drop waits for.
    pub(crate) async fn kill(&mut self) -> bool {
        match &mut self.running {
            Some(running) => {
                running.kill().await;
                running.nothing_left().await;
                running.reaped
            }
            None => true,
        }
    }

    /// Waits for a process whose input has ended; then asks it to end; then kills it. Returns when
    /// what it has started is gone too.
    pub(crate) async fn stop(mut self, grace: Duration) {
        if let Some(running) = &mut self.running {
            running.end(grace / 2).await;
            running.nothing_left().await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let running = self.running.take().filter(|running| !running.reaped);
        let Some(mut running) = running else {
            return;
        };
        running.start_kill();
        // Without a runtime nobody is told of its end, and the next one to start a process reaps it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(running.reap());
        }
    }
}

impl Running {
    async fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        let status = timeout(patience, self.child.wait()).await.ok()?.ok()?;
        self.bury();
        Some(status)
    }

    fn has_ended(&mut self) -> bool {
        // Of the group's own `try_wait` the status is lost where others of the group are children of
        // ours too, as all orphans are in a container.
        let ended = matches!(self.child.inner_mut().try_wait(), Ok(Some(_)));
        if ended {
            self.bury();
        }
        ended
    }

    fn bury(&mut self) {
        if !std::mem::replace(&mut self.reaped, true) {
            self.start_kill();
        }
    }

    fn start_kill(&mut self) {
        // No group left is no error.
        let _ = self.child.start_kill();
    }

    async fn end(&mut self, share: Duration) {
        if self.ended(share).await.is_some() {
            return;
        }
        // It may have ended just now: then there is nobody to signal.
        let _ = self.child.signal(SIGTERM);
        if self.ended(share).await.is_none() {
            self.kill().await;
        }
    }

    async fn kill(&mut self) {
        if !self.reaped {
            self.start_kill();
            self.ended(REAPED_WITHIN).await;
        }
    }

    /// Waits until the others of a group that was killed are gone: behind a shell, one of them is the
    /// server. One that has ended, and that nobody waits for, is not waited for here either.
    async fn nothing_left(&mut self) {
        let gone = async {
            while killpg(self.group, None) != Err(Errno::ESRCH) {
                sleep(LOOK_EVERY).await;
            }
        };
        let _ = timeout(GROUP_GONE_WITHIN, gone).await;
        self.stderr_closed().await;
    }

    /// Waits until nobody can write to stderr, which most often means: until all that the process
    /// has started is gone too. A daemon that kept it open is not waited for.
    async fn stderr_closed(&mut self) {
        if !self.stderr.is_finished() {
            let _ = timeout(STDERR_WITHIN, &mut self.stderr).await;
        }
    }

    /// Waits for the end of a process that was killed, however long that takes: until then
    /// nothing may be started in its place.
    async fn reap(mut self) {
        if self.child.wait().await.is_ok() {
            self.bury();
            self.nothing_left().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stderr.abort();
        if !self.reaped {
            self.start_kill();
        }
    }
}

/// Hands a server's stderr to the log, line by line and bounded.
async fn read_stderr(server: String, stderr: impl AsyncRead + Unpin, last_lines: LastLines) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut stderr)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        tracing::debug!(target: "toolweir_mcp::stderr", server, "{}", text.escape_debug());
        last_lines.push(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::kill;

    use super::{super::ending::life, *};

    #[tokio::test]
    async fn stderr_is_logged_line_by_line_with_the_servers_name_and_cut() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(Arc::new(log.reopen().unwrap()))
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);

        let longest = usize::try_from(LONGEST_LINE).unwrap();
        let long = "x".repeat(longest + 1);
        let stderr = format!("first\n\n\u{1b}[2Jsecond\n{long}\n");
        let last_lines = LastLines::default();
        read_stderr("music".to_owned(), stderr.as_bytes(), last_lines).await;

        let log = std::fs::read_to_string(log.path()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 4, "{log}");
        for (line, words) in lines
            .iter()
            .zip(["first", r"\u{1b}[2Jsecond", "xxx", " x "])
        {
            assert!(line.contains("toolweir_mcp::stderr"), "{line}");
            assert!(line.contains(words) && line.contains("music"), "{line}");
            assert!(line.matches('x').count() <= longest);
        }
    }

    #[tokio::test]
    async fn one_that_is_dropped_is_alive_until_it_was_waited_for() {
        let (alive, ended) = life();
        let server = StdioServer::new("sleep").arg("1000");
        let (process, ..) = Process::start("music", &server, alive).unwrap();
        let id = Pid::from_raw(process.id().unwrap().try_into().unwrap());
        drop(process);
        assert!(!ended.is_over(), "nobody can have waited for it yet");
        ended.over().await;
        assert_eq!(kill(id, None), Err(Errno::ESRCH));
    }
}
