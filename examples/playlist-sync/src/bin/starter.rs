//! Creates, triggers, backfills and deletes the sync's schedules.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use playlist_sync::{
    sync::{SyncInput, TASK_QUEUE, WORKFLOW_TYPE},
    temporal,
};
use toolweir::schedule::{BackfillRequest, Overlap, Schedule, Schedules};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Creates, triggers, backfills and deletes schedules of the playlist sync.
#[derive(Debug, Parser)]
#[command(name = "starter", version)]
struct Arguments {
    /// The Temporal server, as host:port.
    #[arg(
        long,
        env = "TEMPORAL_ADDRESS",
        default_value = "127.0.0.1:7233",
        global = true
    )]
    address: String,

    /// The Temporal namespace.
    #[arg(
        long,
        env = "TEMPORAL_NAMESPACE",
        default_value = "default",
        global = true
    )]
    namespace: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a schedule that syncs playlist exports.
    Create(NewSchedule),
    /// Run a schedule's sync now. Its overlap policy holds unless another is given.
    Trigger {
        /// The schedule's id.
        id: String,
        /// What becomes of the run if another is under way.
        #[arg(long, value_enum)]
        overlap: Option<OverlapArgument>,
    },
    /// Run what was due in past days: now, one run after the other, none dropped.
    Backfill {
        /// The schedule's id.
        id: String,
        /// How many days.
        #[arg(long, default_value_t = 17)]
        days: u32,
        /// How the runs stand to each other.
        #[arg(long, value_enum, default_value_t = OverlapArgument::BufferAll)]
        overlap: OverlapArgument,
    },
    /// Say how a schedule stands.
    Describe {
        /// The schedule's id.
        id: String,
    },
    /// Delete a schedule. Runs that are under way go on.
    Delete {
        /// The schedule's id.
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct NewSchedule {
    /// The schedule's id.
    id: String,

    /// The playlist exports (.csv, .m3u, .m3u8), on the worker's machine.
    #[arg(required = true)]
    exports: Vec<PathBuf>,

    /// How often it runs.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "5m")]
    every: Duration,

    /// What becomes of a run that is due while another is under way.
    #[arg(long, value_enum, default_value_t = OverlapArgument::Skip)]
    overlap: OverlapArgument,

    /// How late a run may start that was due while the Temporal server was down.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1m")]
    catch_up: Duration,

    /// Start each run at a random moment in this time after it is due.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    jitter: Duration,

    /// How long a run waits for a server that says when it will take calls.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    patience: Duration,

    /// The workers' task queue.
    #[arg(long, default_value = TASK_QUEUE)]
    task_queue: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverlapArgument {
    /// Drop the new run.
    Skip,
    /// Keep one run waiting and drop the rest.
    BufferOne,
    /// Keep all waiting, one run after the other.
    BufferAll,
    /// Cancel the run that is under way.
    CancelOther,
    /// Terminate the run that is under way.
    TerminateOther,
    /// Run all at once.
    AllowAll,
}

impl From<OverlapArgument> for Overlap {
    fn from(argument: OverlapArgument) -> Self {
        match argument {
            OverlapArgument::Skip => Self::Skip,
            OverlapArgument::BufferOne => Self::BufferOne,
            OverlapArgument::BufferAll => Self::BufferAll,
            OverlapArgument::CancelOther => Self::CancelOther,
            OverlapArgument::TerminateOther => Self::TerminateOther,
            OverlapArgument::AllowAll => Self::AllowAll,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(said) => {
            #[expect(
                clippy::print_stdout,
                reason = "the answer is for the person at the terminal"
            )]
            {
                println!("{said}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "what went wrong is for people")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<String> {
    let schedules =
        Schedules::new(temporal::connect(&arguments.address, &arguments.namespace).await?);
    match arguments.command {
        Command::Create(new) => create(&schedules, new).await,
        Command::Trigger { id, overlap } => {
            schedules.trigger(&id, overlap.map(Into::into)).await?;
            Ok(format!("triggered {id}"))
        }
        Command::Backfill { id, days, overlap } => {
            let now = SystemTime::now();
            let request = BackfillRequest::new(now - DAY * days..=now).overlap(overlap.into());
            let backfill = schedules.backfill(&id, request).await?;
            Ok(format!(
                "backfills {id} with {} runs",
                backfill.expected_runs()
            ))
        }
        Command::Describe { id } => {
            let about = schedules.describe(&id).await?;
            Ok(format!(
                "{id}: {} runs started, {} skipped because another was under way, {} missed, {} \
                 waiting, {} under way{}",
                about.actions_taken,
                about.overlap_skipped,
                about.missed_catch_up,
                about.buffered,
                about.running.len(),
                if about.paused { "; paused" } else { "" }
            ))
        }
        Command::Delete { id } => {
            schedules.delete(&id).await?;
            Ok(format!("deleted {id}; its runs under way go on"))
        }
    }
}

async fn create(schedules: &Schedules, new: NewSchedule) -> Result<String> {
    let exports = new
        .exports
        .iter()
        .map(|path| Ok(std::path::absolute(path)?.display().to_string()))
        .collect::<Result<_>>()?;
    let input = SyncInput {
        patience_ms: u64::try_from(new.patience.as_millis())?,
        ..SyncInput::new(exports)
    };
    let schedule = Schedule::builder(&new.id)
        .workflow(WORKFLOW_TYPE, new.task_queue)
        .input(&input)
        .every(new.every)
        .overlap(new.overlap.into())
        .catch_up_window(new.catch_up)
        .jitter(new.jitter)
        .build()?;
    schedules.create(&schedule).await?;
    let every = humantime::format_duration(new.every);
    Ok(format!("created {}, every {every}", new.id))
}
