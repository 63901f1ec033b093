//! The scripted server as a process, and where a test finds it.

use std::env;
use std::future::pending;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::arguments::Arguments;
#[cfg(unix)]
use super::fault::Fault;
use super::handler::serve;
use super::link::Link;
use super::server::ScriptedServer;
#[cfg(unix)]
use super::state::State;
use super::stats::StatsFile;
use super::stdio::StandardStreams;

/// However it is told to hang, no server outlives the test it was for by more than this.
const LIFE: Duration = Duration::from_secs(1000);

/// The code of a process that came to the end of [`LIFE`].
const TOO_OLD: u8 = 3;

/// Runs a scripted server on stdin and stdout, told what to do by the command line (`--help`).
///
/// It makes a runtime of its own and returns when stdin ends. It exits with code 1 when it is told
/// to die or cannot start, and with code 3 after 1000 seconds.
#[must_use]
pub fn stdio_main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            // If even stderr is gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "scripted_server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async { timeout(LIFE, serve_stdio(arguments)).await });
    // A read of a terminal cannot be cancelled, and must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(result) => result.map(|()| ExitCode::SUCCESS),
        Err(_) => Ok(ExitCode::from(TOO_OLD)),
    }
}

async fn serve_stdio(arguments: &Arguments) -> anyhow::Result<()> {
    #[cfg(unix)]
    let _ignored = arguments
        .ignore_sigterm
        .then(|| signal(SignalKind::terminate()))
        .transpose()
        .context("SIGTERM cannot be caught")?;
    let server = scripted(arguments);
    if arguments.spawn_grandchild {
        let pid = spawn_grandchild().context("no grandchild can be started")?;
        server
            .state()
            .record(|stats| stats.grandchild_pid = Some(pid));
    }
    if let Some(banner) = &arguments.banner {
        let mut stdout = io::stdout();
        writeln!(stdout, "{banner}")?;
        stdout.flush()?;
    }
    let state = Arc::clone(server.state());
    let link = Link::new(StandardStreams::own(), Arc::clone(&state));
    state.add_link(&link);
    #[cfg(unix)]
    if let Some(fault) = arguments.fault_on_signal.clone() {
        let signals = signal(SignalKind::user_defined1()).context("SIGUSR1 cannot be caught")?;
        tokio::spawn(strike_on(signals, fault, Arc::clone(&state)));
    }
    serve(state, link).await;
    if arguments.ignore_eof {
        pending::<()>().await;
    }
    Ok(())
}

#[cfg(unix)]
async fn strike_on(mut signals: Signal, fault: Fault, state: Arc<State>) {
    while signals.recv().await.is_some() {
        state.strike_links(&fault).await;
    }
}

fn scripted(arguments: &Arguments) -> ScriptedServer {
    let file = arguments.stats_file.as_deref().map(StatsFile::new);
    let server = ScriptedServer::process(file);
    server
        .start_delay(Duration::from_millis(arguments.start_delay_ms))
        .hang_in_handshake(arguments.hang_in_handshake)
        .reject_refresh(arguments.reject_refresh)
        .strike_in_handshake(arguments.fault_in_handshake.clone())
        .speaks_only(arguments.speaks_only.as_deref())
        .script(arguments.script.iter().cloned());
    server.state().script().die_in_handshake = arguments.exit_in_handshake;
    if let Some(life) = arguments.token_life_ms {
        server.token_life(Duration::from_millis(life));
    }
    server
}

/// It keeps stderr, so that who reads the server's stderr to its end knows the grandchild's end.
fn spawn_grandchild() -> io::Result<u32> {
    let child = Command::new("sleep")
        .arg(LIFE.as_secs().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    Ok(child.id())
}

/// The program of the example `scripted_server` of the package under test.
///
/// Cargo builds a package's examples along with its tests, and no other package's. So a package
/// whose tests want the server as a process adds an example of its own,
/// `examples/scripted_server.rs`:
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     toolweir_testkit::mcp::stdio_main()
/// }
/// ```
///
/// All packages of a workspace put their examples into one directory, so only one may use this
/// name; Cargo warns of a collision. The next one names its example otherwise and asks for it with
/// [`example_program`].
///
/// # Panics
///
/// If it is not there: outside a test of such a package, or when only single targets are built
/// (`--test NAME`, `--lib`).
#[must_use]
pub fn scripted_server_program() -> PathBuf {
    example_program("scripted_server")
}

/// The program of an example, by name, of the package under test.
///
/// # Panics
///
/// As [`scripted_server_program`].
#[must_use]
pub fn example_program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own program");
    // target/debug/deps/a_test-0123 and target/debug/examples/scripted_server
    let directory = test.ancestors().nth(2);
    let program = directory.map(|directory| {
        let name = format!("{name}{}", env::consts::EXE_SUFFIX);
        directory.join("examples").join(name)
    });
    match program {
        Some(program) if program.is_file() => program,
        _ => panic!(
            "there is no example {name:?} beside {}: give the package an examples/{name}.rs, and \
             build all its targets or `--examples`",
            test.display()
        ),
    }
}
