//! What a bench has found, for people and for programs.

use std::{fmt::Display, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Takes figures, prints them, and writes them to `json` if there is such a file.
///
/// # Errors
///
/// The figures cannot be taken or written. Where there is no place for them, that is said before
/// anything is measured.
pub fn figures<F: Serialize + Display>(
    json: Option<&Path>,
    measure: impl FnOnce() -> Result<F>,
) -> Result<F> {
    if let Some(json) = json {
        // Better now than after minutes of work.
        write(json, "")?;
    }
    let figures = measure()?;
    print(&figures);
    if let Some(json) = json {
        write(json, &(serde_json::to_string_pretty(&figures)? + "\n"))?;
    }
    Ok(figures)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::print_stdout, reason = "the figures are what a bench is for")]
fn print(figures: &impl Display) {
    print!("{figures}");
}

/// How a bench ends: well, if nothing went wrong and there is nothing to complain of.
pub fn verdict(complaints: Result<Vec<String>>) -> ExitCode {
    let complaints = complaints.unwrap_or_else(|error| vec![format!("{error:#}")]);
    for complaint in &complaints {
        say("error", complaint);
    }
    if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Something on the side, for whoever looks on.
pub fn note(message: &str) {
    say("bench", message);
}

#[expect(
    clippy::print_stderr,
    reason = "what is said on the side is for the person at the terminal"
)]
fn say(what: &str, message: &str) {
    eprintln!("{what}: {message}");
}
