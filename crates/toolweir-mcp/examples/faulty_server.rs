//! An MCP server that breaks in one way at one moment, for the table of faults.
//!
//! `faulty_server FAULT MOMENT MARKER`: the moment is `connecting`, `idle`, or `calls:N`, the point at
//! which N calls are under way. It breaks once: then the file MARKER is there, with the id of the process
//! that broke, and later ones are whole. It speaks the protocol by hand, because a library would not
//! break it.

use std::{
    env,
    error::Error,
    fs,
    io::{self, BufRead, Write},
    path::PathBuf,
    process::{self, exit},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, close},
};
use serde_json::{Value, json};

/// More than the limit that the tests set.
const TOO_MANY_BYTES: usize = 100_000;
/// However it breaks, it does not outlive the test by more than this.
const LIFE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut next = |what| arguments.next().ok_or(what);
    let mut server = Server {
        fault: next("a fault")?,
        moment: next("a moment")?,
        marker: next("a marker")?.into(),
        waiting: Vec::new(),
    };
    let (_told, never) = mpsc::channel::<()>();
    thread::spawn(move || {
        let _ = never.recv_timeout(LIFE);
        exit(3);
    });
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        server.take(&message)?;
    }
    Ok(())
}

struct Server {
    fault: String,
    moment: String,
    marker: PathBuf,
    /// Calls without an answer: their ids and arguments.
    waiting: Vec<(Value, Value)>,
}

impl Server {
    fn take(&mut self, message: &Value) -> io::Result<()> {
        let id = &message["id"];
        match message["method"].as_str() {
            Some("initialize") => {
                if self.breaks_at("connecting") {
                    return self.break_in(&initialized(id, "2025-11-25"));
                }
                say(&initialized(id, "2025-11-25"))
            }
            Some("tools/list") => say(&answer(id, json!({ "tools": [] }))),
            Some("tools/call") => self.call(id, &message["params"]),
            _ => Ok(()),
        }
    }

    fn call(&mut self, id: &Value, params: &Value) -> io::Result<()> {
        let arguments = params["arguments"].clone();
        if params["name"] == "break" {
            say(&echoed(id, &arguments))?;
            if self.breaks_at("idle") {
                // What comes next is no answer to anything.
                self.break_in(
                    &json!({ "jsonrpc": "2.0", "method": "notifications/message",
                    "params": { "level": "info", "data": "x" } }),
                )?;
            }
            return Ok(());
        }
        self.waiting.push((id.clone(), arguments));
        let moment = self.moment.strip_prefix("calls:");
        let breaks = moment.is_some() && !self.marker.exists();
        if breaks && moment != Some(&self.waiting.len().to_string()) {
            return Ok(());
        }
        if breaks {
            self.mark()?;
            let (id, arguments) = self.waiting.remove(0);
            self.break_in(&echoed(&id, &arguments))?;
        }
        for (id, arguments) in std::mem::take(&mut self.waiting) {
            say(&echoed(&id, &arguments))?;
        }
        Ok(())
    }

    fn breaks_at(&self, moment: &str) -> bool {
        self.moment == moment && !self.marker.exists() && self.mark().is_ok()
    }

    fn mark(&self) -> io::Result<()> {
        // Whoever sees it there sees it whole.
        let unfinished = self.marker.with_extension("new");
        fs::write(&unfinished, process::id().to_string())?;
        fs::rename(unfinished, &self.marker)
    }

    /// Breaks where `message` was to be said.
    fn break_in(&self, message: &Value) -> io::Result<()> {
        let text = message.to_string();
        let mut out = io::stdout();
        match self.fault.as_str() {
            "kill" => signal(Signal::SIGKILL),
            "stop" | "stop-for-good" => {
                signal(Signal::SIGSTOP)?;
                say(message)
            }
            "exit" => exit(0),
            "close" => close(1).map_err(io::Error::from),
            "garbage" => {
                out.write_all(b"\xff\xfe\x00 not JSON {\"id\":1\n[1,2\n\"\\u{1b}[31m\n")?;
                say(message)
            }
            "banner" => {
                out.write_all(b"faulty server 1.0, ready to serve\n")?;
                say(message)
            }
            "half" => {
                out.write_all(&text.as_bytes()[..text.len() / 2])?;
                out.flush()
            }
            "large" => say(&inflated(message)),
            "version" => say(&initialized(&message["id"], "1900-01-01")),
            fault => Err(io::Error::other(format!("no fault is called {fault:?}"))),
        }
    }
}

fn signal(signal: Signal) -> io::Result<()> {
    kill(Pid::this(), signal).map_err(io::Error::from)
}

fn say(message: &Value) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{message}")?;
    out.flush()
}

fn initialized(id: &Value, version: &str) -> Value {
    answer(
        id,
        json!({ "protocolVersion": version, "capabilities": { "tools": {} },
            "serverInfo": { "name": "faulty", "version": "1" } }),
    )
}

#[expect(clippy::needless_pass_by_value, reason = "each is made for this")]
fn answer(id: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn echoed(id: &Value, arguments: &Value) -> Value {
    answer(id, json!({ "content": [], "structuredContent": arguments }))
}

/// The same message, with more in it than anybody wants.
fn inflated(message: &Value) -> Value {
    let mut message = message.clone();
    let padding = json!({ "padding": "x".repeat(TOO_MANY_BYTES) });
    let place = if message["result"].is_null() {
        "params"
    } else {
        "result"
    };
    message[place]["_meta"] = padding;
    message
}
