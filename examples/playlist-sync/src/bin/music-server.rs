//! The MCP server that the playlist example talks to; see `music-server --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    playlist_sync::music::process::main()
}
