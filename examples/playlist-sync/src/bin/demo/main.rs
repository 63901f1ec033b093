//! Runs the example end to end, and says what happened.

mod arguments;
mod figures;
mod progress;
mod show;
mod stage;
mod summary;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use playlist_sync::stop::Stop;
use tokio::time::{Instant, timeout};
use toolweir::schedule::Schedules;
use tracing_subscriber::EnvFilter;

use crate::{
    arguments::Arguments,
    figures::{Expected, Figures},
    progress::Progress,
    show::Show,
    stage::Stage,
};

/// As a shell reports a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
/// How long an interrupted start may go on. One that installs the server first is let go then.
const SERVER_STARTS_WITHIN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What takes long before anything else can be said: the server's installation.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("error,toolweir_testkit=info"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let progress = Progress::new();
    let result = demo(&arguments, progress).await;
    result.unwrap_or_else(|error| {
        #[expect(
            clippy::print_stderr,
            reason = "what went wrong is for the person at the terminal"
        )]
        {
            eprintln!("error: {error:#}");
        }
        ExitCode::FAILURE
    })
}

async fn demo(arguments: &Arguments, mut progress: Progress) -> Result<ExitCode> {
    let begun = Instant::now();
    let exports = exports(arguments)?;
    if let Some(path) = &arguments.json {
        // Better now than after a minute's work.
        write(path, "")?;
    }
    let expected = Expected::read(&exports);
    if expected.unreadable.len() == exports.len() {
        bail!("no export can be read: {}", expected.unreadable.join("; "));
    }
    // Before anything is said or started, so that nothing is left behind.
    let mut stop = Stop::listen()?;
    progress.say("starting the development server, the worker and its MCP server");
    let mut setting = std::pin::pin!(Stage::set(arguments, &exports));
    let stage = tokio::select! {
        stage = &mut setting => Some(stage?),
        () = stop.asked() => None,
    };
    let Some(mut stage) = stage else {
        progress.say("stopping everything");
        // Once it has started it can be stopped and waited for.
        if let Ok(Ok(stage)) = timeout(SERVER_STARTS_WITHIN, setting).await {
            let _ = stage.strike().await;
        }
        progress.done();
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let figures = tokio::select! {
        figures = perform(arguments, &exports, &expected, &mut stage, &mut progress) => Some(figures),
        () = stop.asked() => None,
    };
    progress.say("stopping everything");
    let struck = stage.strike().await;
    progress.done();
    let Some(figures) = figures else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let figures = Figures {
        seconds: begun.elapsed().as_secs_f64(),
        ..figures?
    };
    struck?;
    report(arguments, &expected, &figures)
}

/// The exports as absolute paths, so that the worker finds them wherever it runs.
fn exports(arguments: &Arguments) -> Result<Vec<PathBuf>> {
    let given = if arguments.exports.is_empty() {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data");
        ["anna.csv", "ben.csv", "chloe.m3u8"]
            .iter()
            .map(|name| PathBuf::from(data).join(name))
            .collect()
    } else {
        arguments.exports.clone()
    };
    given
        .into_iter()
        .map(|path| {
            std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))
        })
        .collect()
}

async fn perform(
    arguments: &Arguments,
    exports: &[PathBuf],
    expected: &Expected,
    stage: &mut Stage,
    progress: &mut Progress,
) -> Result<Figures> {
    stage.ready().await?;
    let begun = Instant::now();
    let client = stage.client().await?;
    let journal = stage.journal();
    progress.say("creating the schedules, triggering one, backfilling two");
    let task_queue = stage.task_queue().to_owned();
    let schedules = Schedules::new(client.clone());
    let show = Show::start(schedules, arguments, exports, &task_queue).await?;
    progress.expect_runs(show.expected_runs());
    tokio::select! {
        watched = show.watch(arguments, &journal, progress) => watched?,
        ended = stage.worker_ended() => bail!("the worker ended: {}", ended?),
    }
    progress.say("waiting for the last runs");
    let overlap_skipped = show.wind_down(&client, arguments.patience()).await?;
    progress.say("reading journal and histories");
    Figures::read(
        &client,
        &journal,
        expected,
        overlap_skipped,
        begun.elapsed(),
    )
    .await
}

fn report(arguments: &Arguments, expected: &Expected, figures: &Figures) -> Result<ExitCode> {
    let shortfalls = figures.shortfalls(arguments, expected);
    #[expect(clippy::print_stdout, reason = "the summary is what the demo is for")]
    {
        print!("{}", figures.summary(arguments));
        for row in &expected.malformed {
            println!("  - {row}");
        }
        for shortfall in &shortfalls {
            println!("  ! {shortfall}");
        }
    }
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(figures)?;
        write(path, &(json + "\n"))?;
    }
    Ok(if shortfalls.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
