//! What a bench says while it runs.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::note;

/// A bar on a terminal, lines elsewhere; on stderr, so that stdout holds the figures alone.
///
/// It moves between measurements only: a bar that ticks by itself would be measured with them.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    /// At the begin of so many steps.
    pub fn new(steps: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX))
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {bar:30} {eta} left, {msg}") {
            bar.set_style(style);
        }
        Self { bar, terminal }
    }

    /// Something that begins.
    pub fn say(&self, message: &str) {
        if self.terminal {
            self.bar.set_message(message.to_owned());
        } else {
            note(message);
        }
    }

    /// A step that has ended.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// The end.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}
