//! The command line of `music-server`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::DEFAULT_MISSING;

/// The word for `--missing` that means no track is missing.
pub const NOTHING_MISSING: &str = "none";

const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// A music service behind MCP tools, over stdin and stdout.
///
/// The MCP client that starts it can search its catalogue, which is made of playlist exports, and
/// add tracks to playlists. What it adds is on the disk before it answers, and is there once
/// however often and wherever it is killed. It has a quota and a token that expires, as real
/// services do. Messages for people go to stderr. It ends when its input does, on SIGTERM and on
/// Ctrl-C.
///
/// Durations are written like 20s, 500ms or 1m30s.
#[derive(Debug, Clone, Parser)]
#[command(name = "music-server", version)]
pub struct Arguments {
    /// Playlist exports (.csv, .tsv, .m3u, .m3u8) whose tracks make up the catalogue.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub inputs: Vec<PathBuf>,

    /// Warn of inputs that cannot be read and go on without them, instead of ending.
    #[arg(long)]
    pub skip_unreadable: bool,

    /// Tracks of the inputs that the catalogue lacks: an ISRC, or "Artist - Title", or a track's
    /// key; "none" for a whole catalogue.
    #[arg(long, value_name = "TRACK", num_args = 1.., default_value = DEFAULT_MISSING)]
    pub missing: Vec<String>,

    /// Where playlists, idempotency keys and the record of calls are kept. Created if need be.
    #[arg(long, value_name = "FILE", default_value = "music-journal.jsonl")]
    pub journal: PathBuf,

    /// How long to wait for another server to let go of the journal.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub journal_wait: Duration,

    /// How many calls a second are taken. Looking at the token and renewing it are free.
    #[arg(long, value_name = "CALLS", value_parser = rate, default_value = "10")]
    pub rate: f64,

    /// How many calls are taken at once after a pause.
    #[arg(
        long,
        value_name = "CALLS",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        default_value = "10"
    )]
    pub burst: u32,

    /// How long a token is valid, the first one and each refreshed one.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub token_life: Duration,

    /// How long the server takes to start, before it answers initialize.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub start_delay: Duration,

    /// How long each call takes that is not refused.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "20ms")]
    pub latency: Duration,
}

impl Arguments {
    /// The tracks that the catalogue lacks.
    #[must_use]
    pub fn missing_tracks(&self) -> &[String] {
        match self.missing.as_slice() {
            [only] if only == NOTHING_MISSING => &[],
            missing => missing,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 20s, 500ms or 1m30s"))?;
    if duration > LONGEST {
        return Err("at most 365 days".to_owned());
    }
    Ok(duration)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "write it like 10 or 0.5".to_owned())?;
    if RATES.contains(&rate) {
        Ok(rate)
    } else {
        Err("from 0.001 to 1000000".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from([&["music-server", "--inputs", "a.csv"], flags].concat())
    }

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_rates_and_lists_are_read() {
        let flags = [
            "--token-life",
            "1m30s",
            "--rate",
            "0.5",
            "--missing",
            "a - b",
            "c - d",
        ];
        let arguments = parse(&flags).unwrap();
        assert_eq!(arguments.token_life, Duration::from_secs(90));
        assert!((arguments.rate - 0.5).abs() < f64::EPSILON);
        assert_eq!(arguments.missing_tracks(), ["a - b", "c - d"]);
        assert_eq!(parse(&[]).unwrap().missing_tracks(), [DEFAULT_MISSING]);
        assert!(
            parse(&["--missing", "none"])
                .unwrap()
                .missing_tracks()
                .is_empty()
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            ["--rate", "0"],
            ["--rate", "NaN"],
            ["--rate", "inf"],
            ["--burst", "0"],
            ["--token-life", "20"],
            ["--latency", "-1s"],
            ["--start-delay", "9000years"],
        ] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
        assert!(Arguments::try_parse_from(["music-server"]).is_err());
    }
}
