//! The scripted MCP server as a process, for this crate's tests.

fn main() -> std::process::ExitCode {
    toolweir_testkit::mcp::stdio_main()
}
