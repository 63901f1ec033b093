//! What was measured, as it is written down.

use std::{fs, time::Duration};

use serde::Serialize;

use crate::{
    arguments::Plan, caller::Way, counts::Memory, drive::Driven, rounds::PARTICIPANTS,
    site::Transport,
};

/// What one way to call showed in one run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) calls_per_second: f64,
}

/// The runs of one cell, each with all who took part.
pub(crate) type Runs = Vec<[Run; PARTICIPANTS.len()]>;

impl Run {
    pub(crate) fn of(mut driven: Driven) -> Self {
        let latencies = &mut driven.latencies;
        latencies.sort_unstable();
        let at = |percent| latencies.get(latencies.len() * percent / 100).copied();
        let calls = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
        Self {
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            calls_per_second: f64::from(calls) / driven.elapsed.as_secs_f64(),
        }
    }
}

/// Everything, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) cases: Vec<Case>,
    pub(crate) ratios: Ratios,
    pub(crate) targets: Vec<Target>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) memory: Memory,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) processor: Option<String>,
    pub(crate) cores: usize,
    /// How many others wanted to run, in the minute before: what disturbs a measurement.
    pub(crate) load_before: Option<f64>,
    /// In the minute before the end, of which the bench itself is the most.
    pub(crate) load_after: Option<f64>,
    pub(crate) optimised: bool,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = information.lines().find_map(|line| {
            let name = line.strip_prefix("model name")?;
            Some(name.trim_start().strip_prefix(':')?.trim().to_owned())
        });
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load_before: load(),
            load_after: None,
            optimised: !cfg!(debug_assertions),
        }
    }
}

pub(crate) fn load() -> Option<f64> {
    let averages = fs::read_to_string("/proc/loadavg").ok()?;
    averages.split(' ').next()?.parse().ok()
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) runs: usize,
    pub(crate) turns_per_run: usize,
    pub(crate) turn_ms: u128,
    pub(crate) threads: usize,
    /// Whether the run was only to see whether it works.
    pub(crate) quick: bool,
}

impl Settings {
    pub(crate) const fn of(plan: &Plan) -> Self {
        Self {
            runs: plan.runs,
            turns_per_run: plan.turns,
            turn_ms: plan.turn.as_millis(),
            threads: plan.threads,
            quick: plan.quick,
        }
    }
}

/// One way to call, over one transport, with so many calls under way: medians of the runs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Case {
    pub(crate) name: Way,
    pub(crate) transport: Transport,
    pub(crate) in_flight: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) allocs: f64,
    pub(crate) calls_per_second: f64,
}

impl Case {
    /// The cases of a cell.
    pub(crate) fn all(
        transport: Transport,
        in_flight: usize,
        runs: &Runs,
        allocations: [f64; Way::ALL.len()],
    ) -> [Self; Way::ALL.len()] {
        [0, 1, 2, 3].map(|way: usize| {
            let of = |figure: fn(&Run) -> f64| Spread::of(runs, |run| figure(&run[way])).median;
            Self {
                name: Way::ALL[way],
                transport,
                in_flight,
                p50_us: of(|run| micros(run.p50)),
                p99_us: of(|run| micros(run.p99)),
                allocs: allocations[way],
                calls_per_second: of(|run| run.calls_per_second),
            }
        })
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Who is compared with bare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compared {
    Timed,
    Mcp,
    Full,
    /// Bare itself, on another connection: what is seen here is noise.
    BareAgain,
}

/// How a way to call compares with bare: the median of what each run showed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    pub(crate) name: Compared,
    pub(crate) transport: Transport,
    pub(crate) in_flight: usize,
    pub(crate) p50_vs_bare: Spread,
    pub(crate) throughput_vs_bare: Spread,
}

impl Comparison {
    /// The comparisons of a cell.
    pub(crate) fn all(transport: Transport, in_flight: usize, runs: &Runs) -> [Self; 4] {
        let places = [
            (Compared::Timed, 1),
            (Compared::Mcp, 2),
            (Compared::Full, 3),
            (Compared::BareAgain, 4),
        ];
        places.map(|(name, place)| Self {
            name,
            transport,
            in_flight,
            p50_vs_bare: Spread::of(runs, |run| {
                run[place].p50.as_secs_f64() / run[0].p50.as_secs_f64()
            }),
            throughput_vs_bare: Spread::of(runs, |run| {
                run[place].calls_per_second / run[0].calls_per_second
            }),
        })
    }
}

/// What the runs showed of one figure.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Spread {
    fn of(runs: &Runs, figure: impl Fn(&[Run; PARTICIPANTS.len()]) -> f64) -> Self {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len().saturating_sub(1);
        // Between two figures it is the middle of them.
        let at = |quarter: usize| {
            let (below, above) = (quarter * last / 4, (quarter * last).div_ceil(4));
            figures[below].midpoint(figures[above])
        };
        Self {
            median: at(2),
            lower_quartile: at(1),
            upper_quartile: at(3),
            lowest: figures[0],
            highest: figures[last],
        }
    }
}

/// The ratios that have a target. A ratio that was not measured is null.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Ratios {
    pub(crate) stdio_1_p50_full_vs_bare: Option<f64>,
    pub(crate) stdio_256_throughput_full_vs_bare: Option<f64>,
    pub(crate) http_16_p50_full_vs_bare: Option<f64>,
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Target {
    pub(crate) ratio: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_most: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_least: Option<f64>,
    pub(crate) measured: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
    pub(crate) reached: bool,
}

/// No slower than this, at the median.
const MOST_P50: f64 = 1.03;
/// No fewer calls than this.
const LEAST_THROUGHPUT: f64 = 0.95;

impl Target {
    fn at_most(ratio: &'static str, measured: &Spread) -> Self {
        Self {
            at_most: Some(MOST_P50),
            at_least: None,
            reached: measured.median <= MOST_P50,
            ..Self::of(ratio, measured)
        }
    }

    fn at_least(ratio: &'static str, measured: &Spread) -> Self {
        Self {
            at_least: Some(LEAST_THROUGHPUT),
            reached: measured.median >= LEAST_THROUGHPUT,
            ..Self::of(ratio, measured)
        }
    }

    const fn of(ratio: &'static str, measured: &Spread) -> Self {
        Self {
            ratio,
            at_most: None,
            at_least: None,
            measured: measured.median,
            lower_quartile: measured.lower_quartile,
            upper_quartile: measured.upper_quartile,
            reached: false,
        }
    }
}

/// The ratios that have a target, and whether they reach it.
pub(crate) fn targets(comparisons: &[Comparison]) -> (Ratios, Vec<Target>) {
    let full = |transport, in_flight| {
        comparisons.iter().find(|compared| {
            compared.name == Compared::Full
                && compared.transport == transport
                && compared.in_flight == in_flight
        })
    };
    let stdio_1 = full(Transport::Stdio, 1).map(|compared| &compared.p50_vs_bare);
    let stdio_256 = full(Transport::Stdio, 256).map(|compared| &compared.throughput_vs_bare);
    let http_16 = full(Transport::Http, 16).map(|compared| &compared.p50_vs_bare);
    let ratios = Ratios {
        stdio_1_p50_full_vs_bare: stdio_1.map(|spread| spread.median),
        stdio_256_throughput_full_vs_bare: stdio_256.map(|spread| spread.median),
        http_16_p50_full_vs_bare: http_16.map(|spread| spread.median),
    };
    let targets = [
        stdio_1.map(|spread| Target::at_most("stdio_1_p50_full_vs_bare", spread)),
        stdio_256.map(|spread| Target::at_least("stdio_256_throughput_full_vs_bare", spread)),
        http_16.map(|spread| Target::at_most("http_16_p50_full_vs_bare", spread)),
    ];
    (ratios, targets.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(micros: u64) -> Run {
        Run {
            p50: Duration::from_micros(micros),
            p99: Duration::from_micros(2 * micros),
            calls_per_second: 100.0 / f64::from(u32::try_from(micros).unwrap()),
        }
    }

    fn runs(full: &[u64]) -> Runs {
        let runs = full.iter();
        runs.map(|full| [run(100), run(105), run(110), run(*full), run(100)])
            .collect()
    }

    #[test]
    fn percentiles_are_of_all_calls_of_a_run() {
        let run = Run::of(Driven {
            latencies: (0..200).rev().map(Duration::from_micros).collect(),
            elapsed: Duration::from_secs(2),
        });
        assert_eq!(run.p50, Duration::from_micros(100));
        assert_eq!(run.p99, Duration::from_micros(198));
        assert!((run.calls_per_second - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_is_the_median_of_what_each_run_showed() {
        let [timed, mcp, full, again] =
            Comparison::all(Transport::Stdio, 1, &runs(&[101, 150, 102]));
        assert!((timed.p50_vs_bare.median - 1.05).abs() < 1e-9);
        assert!((mcp.p50_vs_bare.median - 1.1).abs() < 1e-9);
        assert!((full.p50_vs_bare.median - 1.02).abs() < 1e-9);
        assert!((full.p50_vs_bare.highest - 1.5).abs() < 1e-9);
        assert!((again.throughput_vs_bare.median - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_target_is_reached_or_missed_and_what_was_not_measured_is_neither() {
        let reached = |full: &[u64]| {
            let comparisons = Comparison::all(Transport::Stdio, 1, &runs(full));
            let (ratios, targets) = targets(&comparisons);
            assert!(ratios.http_16_p50_full_vs_bare.is_none());
            targets
                .iter()
                .map(|target| target.reached)
                .collect::<Vec<_>>()
        };
        assert_eq!(reached(&[103, 102, 120]), [true]);
        assert_eq!(reached(&[104, 105, 100]), [false]);
        let (_, slow) = targets(&Comparison::all(Transport::Stdio, 256, &runs(&[120])));
        assert!(!slow[0].reached, "{slow:?}");
        assert_eq!(slow[0].ratio, "stdio_256_throughput_full_vs_bare");
    }
}
