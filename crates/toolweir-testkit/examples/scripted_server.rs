//! The scripted MCP server as a process, for tests.

fn main() -> std::process::ExitCode {
    toolweir_testkit::mcp::stdio_main()
}
