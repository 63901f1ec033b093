"""An MCP server for tests, on FastMCP. With a port for an argument it speaks over HTTP."""

import asyncio
import sys
from pathlib import Path

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError

server = FastMCP("fastmcp")


@server.tool(annotations={"readOnlyHint": True})
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@server.tool
def throttled() -> str:
    """Is always over its limit, and says so in a text."""
    raise ToolError("429 Too Many Requests: retry after 3s")


@server.tool
async def hang(directory: str) -> None:
    """Does not end. It leaves a file `started` in the directory, and `cancelled` when it is."""
    Path(directory, "started").touch()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(directory, "cancelled").touch()
        raise


@server.tool
async def progress(steps: int, context: Context) -> int:
    """Reports each of its steps."""
    for step in range(1, steps + 1):
        await context.report_progress(step, steps, f"step {step}")
    return steps


if len(sys.argv) > 1:
    server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
else:
    server.run(show_banner=False)
