//! What passes between us and a server, written down.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;
use toolweir_mcp::StdioServer;
use toolweir_testkit::installed::Program;

/// Starts a server between two `tee`s, and becomes it: its process is the server's own.
///
/// The pipes bear the process's number, because a server that was killed is started again. The two
/// descriptors above stderr are there for the `tee`s alone, whose stdin a shell would close.
const BETWEEN: &str = r#"
directory=$1; shift
sent="$directory/sent.$$"; received="$directory/received.$$"
mkfifo "$sent" "$received" || exit 9
exec 3<&0 4>&1
tee -a "$directory/sent" <&3 >"$sent" 3<&- 4>&- &
tee -a "$directory/received" <"$received" >&4 3<&- 4>&- &
exec "$@" <"$sent" >"$received" 3<&- 4>&-
"#;

/// What passed on a server's stdin and stdout.
#[derive(Debug)]
pub(crate) struct Wire {
    directory: TempDir,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// The server with its wire written down.
    pub(crate) fn around(&self, program: &Program) -> StdioServer {
        StdioServer::new("sh")
            .args(["-c", BETWEEN, "sh"])
            .arg(self.directory.path())
            .arg(&program.program)
            .args(&program.args)
    }

    /// What the server was sent.
    pub(crate) fn sent(&self) -> Vec<Value> {
        messages(&self.directory.path().join("sent"))
    }

    /// What it answered.
    pub(crate) fn received(&self) -> Vec<Value> {
        messages(&self.directory.path().join("received"))
    }

    /// The numbers of the calls that the server was sent, in their order.
    pub(crate) fn calls(&self) -> Vec<Value> {
        let sent = self.sent().into_iter();
        let calls = sent.filter(|message| message["method"] == "tools/call");
        calls.map(|call| call["id"].clone()).collect()
    }

    /// Whether the server was told that the call is not waited for any more.
    pub(crate) fn is_cancelled(&self, call: &Value) -> bool {
        self.sent().iter().any(|message| {
            message["method"] == "notifications/cancelled"
                && message["params"]["requestId"] == *call
        })
    }

    /// Whether the server has answered the call.
    pub(crate) fn is_answered(&self, call: &Value) -> bool {
        let received = self.received();
        let mut answers = received.iter().filter(|m| m.get("method").is_none());
        answers.any(|message| message["id"] == *call)
    }
}

/// The whole lines of a file, of which there may be none yet.
fn messages(file: &Path) -> Vec<Value> {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
