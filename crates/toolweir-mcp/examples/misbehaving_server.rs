//! The scripted MCP server as a process, for this crate's tests.
//!
//! Where `JOURNAL` names a file it has that file locked for as long as it lives, and begins with a line
//! there: its process id, and whether another had it locked. With `BALLAST_MB` it takes its time to die.

use std::{
    env,
    fs::{File, TryLockError},
    hint::black_box,
    io::{self, Write as _},
    process::ExitCode,
};

fn main() -> io::Result<ExitCode> {
    let ballast = env::var("BALLAST_MB").map_or(0, |mb| mb.parse().unwrap_or(0));
    // Memory that was written to must be given back page by page, which a kill waits for.
    let ballast = vec![1_u8; ballast << 20];
    let _journal = journal()?;
    let code = toolweir_testkit::mcp::stdio_main();
    black_box(ballast);
    Ok(code)
}

fn journal() -> io::Result<Option<File>> {
    let Some(path) = env::var_os("JOURNAL") else {
        return Ok(None);
    };
    let mut journal = File::options().create(true).append(true).open(path)?;
    let alone = match journal.try_lock() {
        Ok(()) => "alone",
        Err(TryLockError::WouldBlock) => "beside another",
        Err(TryLockError::Error(error)) => return Err(error),
    };
    writeln!(journal, "{} {alone}", std::process::id())?;
    Ok(Some(journal))
}
