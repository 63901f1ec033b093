//! The command line of a server process.

use std::path::PathBuf;

use clap::Parser;

use super::answer::Answer;
use super::fault::Fault;

/// An MCP server on stdin and stdout that does what it is told.
#[derive(Debug, Parser)]
#[command(name = "scripted_server")]
pub(super) struct Arguments {
    /// How long initialize takes.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(super) start_delay_ms: u64,

    /// Write the stats there as JSON after every change; {pid} stands for the process id.
    #[arg(long, value_name = "FILE")]
    pub(super) stats_file: Option<PathBuf>,

    /// Write this line to stdout first, as servers do that log to the wrong place.
    #[arg(long, value_name = "TEXT")]
    pub(super) banner: Option<String>,

    /// Exit at initialize, with this code.
    #[arg(long, value_name = "CODE")]
    pub(super) exit_in_handshake: Option<i32>,

    /// Never answer initialize.
    #[arg(long)]
    pub(super) hang_in_handshake: bool,

    /// What happens to stdout, or to the process, at initialize: close-stdout, garbage, half,
    /// flood:BYTES or exit:CODE.
    #[arg(long, value_name = "FAULT")]
    pub(super) fault_in_handshake: Option<Fault>,

    /// The same at SIGUSR1.
    #[arg(long, value_name = "FAULT")]
    pub(super) fault_on_signal: Option<Fault>,

    /// Know this version of the protocol alone.
    #[arg(long, value_name = "VERSION")]
    pub(super) speaks_only: Option<String>,

    /// Start a process of one's own that lives on. It holds stderr open, and nothing else.
    #[arg(long)]
    pub(super) spawn_grandchild: bool,

    /// Go on after SIGTERM.
    #[arg(long)]
    pub(super) ignore_sigterm: bool,

    /// Go on when stdin ends.
    #[arg(long)]
    pub(super) ignore_eof: bool,

    /// Answers for the next calls, such as ok,throttle:250,die
    #[arg(long, value_name = "ANSWERS", value_delimiter = ',')]
    pub(super) script: Vec<Answer>,

    /// How long the token lives.
    #[arg(long, value_name = "MS")]
    pub(super) token_life_ms: Option<u64>,

    /// Answer every refresh of the token with `invalid_grant`.
    #[arg(long)]
    pub(super) reject_refresh: bool,
}
