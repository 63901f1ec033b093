//! `docs/faults.md`, made of the tables that the tests walk.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use crate::{
    cell::{Cell, Fault, Moment},
    http, stdio, streams,
};

/// Set to anything, it has the page written in place of compared.
const BLESS: &str = "TOOLWEIR_BLESS";

const HEAD: &str = "\
# Faults
How calls end when a server breaks. Each row is a fault, each column the moment at which it strikes; each
cell that says `passed` is walked by a test of `toolweir-mcp` (`tests/faults`), which makes a connection,
breaks its server on purpose, and asserts that

* every call ends within its own time, with the outcome and the delivery that the cell names;
* no answer goes to another call: each sends a number of its own and must get it back;
* the next call after the recovery succeeds, over the connection that the cell names;
* nothing is left: no process, no task, no permit of a semaphore above, no call on the connection's books.

Outcome and delivery are those of `toolweir_core`: `Failure` counts against the server, `Ignored` says
nothing of it; `NotSent` may always be repeated, `Ambiguous` only where a second execution does no harm.

This page is written by a test, from the tables that the other tests walk. When it differs:
`TOOLWEIR_BLESS=1 cargo test -p toolweir-mcp --all-features --test faults page`.
";

fn render() -> String {
    let mut page = HEAD.to_owned();
    table(
        &mut page,
        "A program, over stdin and stdout",
        &stdio::FAULTS,
    );
    page.push_str(
        "
A process that is stopped, or has sent half a message, is not told from one that thinks: its calls end by
their own time, and the connection stays until somebody restarts it. Health checks find it meanwhile.
",
    );
    table(&mut page, "Streamable HTTP", &http::FAULTS);
    page.push_str(
        "
Over HTTP a request that fails is one request: the session stays, and the next call uses it. A server that
does not know the session has done nothing, so that call is sent once more, in a new one and within the same
time. One that does not know that one either fails the call.
",
    );
    table(
        &mut page,
        "Streamable HTTP, answered by event streams",
        &streams::FAULTS,
    );
    page.push_str(
        "
Many servers answer each request by a stream of events, so a call is under way for as long as its stream is
open. Where the server numbers its events, an answer is asked for again after the stream has broken off; where
it does not, or does not know the session any more, the call ends at once and the others go on.
",
    );
    page
}

fn table(page: &mut String, title: &str, faults: &[Fault]) {
    write!(page, "\n## {title}\n| fault |").unwrap();
    for moment in Moment::ALL {
        write!(page, " {} |", moment.name()).unwrap();
    }
    page.push_str("\n|---|---|---|---|---|\n");
    for fault in faults {
        write!(page, "| {} |", fault.name).unwrap();
        for cell in &fault.cells {
            write!(page, " {} |", text(cell)).unwrap();
        }
        page.push('\n');
    }
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Never(reason) => format!("n/a: {reason}"),
        Cell::Ends(ends, recovery) => {
            let counted = ends.iter().map(|(count, end)| match ends.len() {
                1 => end.to_string(),
                _ => format!("{count} x {end}"),
            });
            let ends = Vec::from_iter(counted).join("; ");
            format!("passed: {ends}; {}", recovery.says())
        }
    }
}

#[test]
fn the_page_says_what_the_tests_walk() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
    let page = render();
    if env::var_os(BLESS).is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "{} is not up to date: {BLESS}=1 writes it",
        path.display()
    );
}

#[test]
fn every_row_is_walked() {
    let codes = |faults: &[Fault]| Vec::from_iter(faults.iter().map(|fault| fault.code));
    assert_eq!(codes(&stdio::FAULTS), stdio::TESTED);
    assert_eq!(codes(&http::FAULTS), http::TESTED);
    assert_eq!(codes(&streams::FAULTS), streams::TESTED);
}
