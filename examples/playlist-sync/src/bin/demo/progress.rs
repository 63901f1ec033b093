//! What the demo says while it runs.

use std::{io::IsTerminal as _, sync::Mutex, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use playlist_sync::music::journal::Counts;
use tokio::time::Instant;

/// On a pipe a line this often is enough.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A spinner on a terminal, lines elsewhere; on stderr, so that stdout holds the summary alone.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    runs: usize,
    terminal: bool,
    last_line: Mutex<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            runs: 0,
            terminal: std::io::stderr().is_terminal(),
            last_line: Mutex::new(None),
        }
    }

    pub(crate) const fn expect_runs(&mut self, runs: usize) {
        self.runs = runs;
    }

    /// A step that begins.
    #[expect(
        clippy::print_stderr,
        reason = "progress is for the person at the terminal"
    )]
    pub(crate) fn say(&self, message: &str) {
        if self.terminal {
            self.bar.set_message(message.to_owned());
        } else {
            eprintln!("demo: {message}");
        }
    }

    /// How far the backfills are.
    pub(crate) fn so_far(&self, ended: usize, counts: &Counts) {
        if !self.terminal && !self.line_is_due() {
            return;
        }
        self.say(&format!(
            "{ended} of {} backfilled runs ended, {} tool calls, {} throttled, \
             {} token refreshes",
            self.runs, counts.tool_calls, counts.throttled, counts.token_refreshes
        ));
    }

    fn line_is_due(&self) -> bool {
        let now = Instant::now();
        let mut last = self
            .last_line
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= LINE_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }

    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
