//! What must hold before a change lands, and with `--full` what takes too long for each change.

use std::{
    collections::BTreeSet,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::workspace;

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct Arguments {
    /// Also run the tests against mutants of the state machines, which takes an hour or two.
    #[arg(long)]
    full: bool,

    /// Only this step.
    #[arg(long, value_name = "STEP")]
    only: Option<Step>,

    /// Only the tests against mutants, and of this crate alone.
    #[arg(long, value_name = "CRATE")]
    mutate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// What holds for each change: format, clippy, documentation, tests and models.
    Change,
    /// The models of what threads do to each other.
    Loom,
    /// The tests against mutants of the state machines.
    Mutants,
}

/// The files of each crate that are mutated: the state machines, and what they are made of.
const MUTATED: [(&str, &[&str]); 4] = [
    ("toolweir-core", &["keys.rs", "keys/table.rs"]),
    (
        "toolweir-circuit-breaker",
        &[
            "state.rs",
            "window/mod.rs",
            "window/count.rs",
            "window/time.rs",
            "probes.rs",
            "refusal.rs",
        ],
    ),
    (
        "toolweir-semaphore",
        &["state.rs", "gate.rs", "queue.rs", "limit.rs", "estimate.rs"],
    ),
    (
        "toolweir-rate-limit",
        &[
            "state.rs",
            "bookings.rs",
            "learner.rs",
            "scope.rs",
            "bucket.rs",
            "refunds.rs",
        ],
    ),
];

/// Where the mutants are named that no test can tell from the original.
const EXPLAINED: &str = "docs/mutants.md";

/// Each job has a copy of the workspace, and of what is built.
const MOST_JOBS: usize = 4;

const MUTANTS_VERSION: &str = "27.1.0";

impl Arguments {
    fn wants(&self, step: Step) -> bool {
        match step {
            _ if self.only.is_some() => self.only == Some(step),
            Step::Mutants => self.full || self.mutate.is_some(),
            Step::Change => self.mutate.is_none(),
            // They are among what holds for each change.
            Step::Loom => false,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    for step in [Step::Change, Step::Loom, Step::Mutants] {
        if arguments.wants(step) {
            match step {
                Step::Change => change()?,
                Step::Loom => loom()?,
                Step::Mutants => mutants(arguments.mutate.as_deref())?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn change() -> Result<()> {
    let mut script = Command::new("bash");
    script.current_dir(workspace::root()).arg(".ci/run");
    succeed(&mut script)
}

/// Runs the models of every crate that has some. They are built with a flag of their own, and so in a
/// directory of their own.
fn loom() -> Result<()> {
    let mut models = 0;
    for entry in fs::read_dir(workspace::root().join("crates"))? {
        let path = entry?.path();
        if !path.join("tests/loom.rs").exists() {
            continue;
        }
        models += 1;
        let package = path.file_name().unwrap_or_default();
        let mut test = workspace::cargo();
        test.env("RUSTFLAGS", "--cfg toolweir_loom")
            .env("CARGO_TARGET_DIR", workspace::target().join("loom"))
            .env("CARGO_PROFILE_TEST_OPT_LEVEL", "1")
            .args(["test", "--test", "loom", "--package"])
            .arg(package);
        succeed(&mut test)?;
    }
    ensure!(models > 0, "no crate has a tests/loom.rs");
    Ok(())
}

/// Fails on a mutant that no test notices and nobody has explained.
fn mutants(only: Option<&str>) -> Result<()> {
    let known = |name: &str| only.is_none_or(|only| only == name);
    let chosen: Vec<_> = MUTATED.iter().filter(|(name, _)| known(name)).collect();
    if chosen.is_empty() {
        let names = MUTATED.map(|(name, _)| name).join(", ");
        bail!(
            "nothing of {:?} is mutated; known: {names}",
            only.unwrap_or_default()
        );
    }
    let cargo_mutants = cargo_mutants()?;
    let explained = fs::read_to_string(workspace::root().join(EXPLAINED)).unwrap_or_default();
    let mut unexplained = BTreeSet::new();
    for (package, files) in chosen {
        for mutant in survivors(&cargo_mutants, package, files)? {
            if !is_explained(&mutant, &explained) {
                unexplained.insert(mutant);
            }
        }
    }
    if !unexplained.is_empty() {
        let list: Vec<String> = unexplained.into_iter().collect();
        bail!(
            "no test notices these mutants, and {EXPLAINED} does not say why:\n  {}",
            list.join("\n  ")
        );
    }
    Ok(())
}

fn survivors(cargo_mutants: &Path, package: &str, files: &[&str]) -> Result<Vec<String>> {
    let output = workspace::target().join("mutants").join(package);
    fs::create_dir_all(&output)?;
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = jobs.min(MOST_JOBS).to_string();
    let mut mutate = Command::new(cargo_mutants);
    mutate
        .current_dir(workspace::root())
        .args([
            "mutants",
            "--package",
            package,
            "--no-shuffle",
            "--colors",
            "never",
        ])
        // It runs tests side by side, and stops at the first that fails.
        .args(["--test-tool", "nextest", "--jobs", &jobs])
        .args(["--minimum-test-timeout", "60", "--output"])
        .arg(&output)
        // Nobody looks for the line that panicked.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_TEST_DEBUG", "0");
    for file in files {
        mutate
            .arg("--file")
            .arg(format!("crates/{package}/src/{file}"));
    }
    mutate.args(["--", "--all-features", "--lib", "--tests"]);
    let status = workspace::status(&mut mutate)?;
    // 2: some were missed. 3: some ended in a timeout, which is to be noticed.
    ensure!(
        matches!(status.code(), Some(0 | 2 | 3)),
        "cargo mutants cannot mutate {package}: {status}"
    );
    let missed = output.join("mutants.out/missed.txt");
    let missed =
        fs::read_to_string(&missed).with_context(|| format!("cannot read {}", missed.display()))?;
    Ok(missed.lines().map(str::to_owned).collect())
}

/// A mutant is named with its place, `file:line:column: what`. Lines move: the file and what was done
/// there are looked for.
fn is_explained(mutant: &str, explained: &str) -> bool {
    let mut parts = mutant.splitn(4, ':');
    let (file, what) = (parts.next(), parts.nth(2).map(str::trim));
    let (Some(file), Some(what)) = (file, what) else {
        return false;
    };
    // In a table's cell a bar is written with a backslash.
    let mut rows = explained.lines().map(|row| row.replace(r"\|", "|"));
    rows.any(|row| row.contains(&format!("`{file}`")) && row.contains(&format!("`{what}`")))
}

/// The program, which is installed beside the target's other tools if it is not there.
fn cargo_mutants() -> Result<PathBuf> {
    let tools = format!("cargo-mutants-{MUTANTS_VERSION}");
    let tools = workspace::target().join("tools").join(tools);
    let program = tools.join("bin").join("cargo-mutants");
    if !program.exists() {
        let mut install = workspace::cargo();
        install
            .args(["install", "cargo-mutants", "--locked", "--version"])
            .args([MUTANTS_VERSION, "--root"])
            .arg(&tools);
        succeed(&mut install)?;
    }
    Ok(program)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = workspace::status(command)?;
    let program = command.get_program().display();
    ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        ci: Arguments,
    }

    fn steps(options: &[&str]) -> Result<Vec<Step>, ErrorKind> {
        let given = ["ci"].iter().chain(options);
        let parsed = Command::try_parse_from(given).map_err(|error| error.kind())?;
        let steps = [Step::Change, Step::Loom, Step::Mutants].into_iter();
        Ok(steps.filter(|step| parsed.ci.wants(*step)).collect())
    }

    #[test]
    fn each_option_chooses_its_steps() {
        assert_eq!(steps(&[]), Ok(vec![Step::Change]));
        assert_eq!(steps(&["--full"]), Ok(vec![Step::Change, Step::Mutants]));
        assert_eq!(steps(&["--only", "loom"]), Ok(vec![Step::Loom]));
        assert_eq!(steps(&["--only", "mutants"]), Ok(vec![Step::Mutants]));
        assert_eq!(steps(&["--mutate", "a"]), Ok(vec![Step::Mutants]));
    }

    #[test]
    fn options_that_say_different_things_are_refused() {
        for options in [
            &["--full", "--only", "loom"],
            &["--full", "--mutate", "a"] as &[_],
            &["--only", "change", "--mutate", "a"],
            &["--only", "mutants", "--mutate", "a"],
        ] {
            assert_eq!(steps(options), Err(ErrorKind::ArgumentConflict));
        }
    }

    #[test]
    fn what_is_mutated_is_there() {
        for (package, files) in MUTATED {
            for file in files {
                let path = format!("crates/{package}/src/{file}");
                assert!(workspace::root().join(&path).is_file(), "no {path}");
            }
        }
    }

    /// `cargo install` takes no part of a version.
    #[test]
    fn the_version_of_cargo_mutants_is_a_whole_one() {
        let parts: Vec<_> = MUTANTS_VERSION.split('.').map(str::parse::<u32>).collect();
        assert!(parts.len() == 3 && parts.iter().all(Result::is_ok));
    }

    #[test]
    fn a_mutant_is_explained_wherever_its_line_has_moved() {
        let mutant = "crates/a/src/state.rs:12:5: replace > with >= in Window::is_full";
        let row = "| `crates/a/src/state.rs` | `replace > with >= in Window::is_full` | the same |";
        assert!(is_explained(mutant, row));
        assert!(!is_explained(
            mutant,
            "| `crates/a/src/state.rs` | `replace > with <` | |"
        ));
        assert!(!is_explained(mutant, &row.replace("/a/", "/b/")));
        assert!(!is_explained("no mutant", row));
    }

    #[test]
    fn a_bar_is_explained_with_a_backslash() {
        let mutant = "crates/a/src/gate.rs:94:37: replace | with ^ in Gate::open";
        let row = r"| `crates/a/src/gate.rs` | `replace \| with ^ in Gate::open` | the same |";
        assert!(is_explained(mutant, row));
    }

    #[test]
    fn what_is_explained_is_mutated() {
        let explained = fs::read_to_string(workspace::root().join(EXPLAINED)).unwrap();
        let mut rows = explained.lines().filter(|row| row.starts_with("| `"));
        let is_mutated = |row: &str| {
            MUTATED.iter().any(|(package, files)| {
                let named = |file| row.contains(&format!("`crates/{package}/src/{file}`"));
                files.iter().any(named)
            })
        };
        assert!(rows.all(is_mutated));
    }
}
