//! What must hold before a change lands, and with `--full` what takes too long for each change.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Also run the tests against mutants of the state machines, which takes hours.
    #[arg(long)]
    full: bool,

    /// Only this step.
    #[arg(long, value_name = "STEP")]
    only: Option<Step>,

    /// Mutate this crate alone.
    #[arg(long, value_name = "CRATE")]
    mutate: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// What holds for each change: format, clippy, documentation, tests and models.
    Change,
    /// The models of what threads do to each other.
    Loom,
    /// The tests against mutants of the state machines.
    Mutants,
}

/// The crates whose state machines are mutated: all but what needs a runtime.
const MUTATED: [(&str, &[&str]); 3] = [
    (
        "toolweir-circuit-breaker",
        &[
            "state.rs",
            "window/*.rs",
            "probes.rs",
            "keys.rs",
            "refusal.rs",
        ],
    ),
    (
        "toolweir-semaphore",
        &["state.rs", "estimate.rs", "queue.rs"],
    ),
    (
        "toolweir-rate-limit",
        &["state.rs", "state/*.rs", "bucket.rs"],
    ),
];

/// Where the mutants are named that no test can tell from the original.
const EXPLAINED: &str = "docs/mutants.md";

const MUTANTS_VERSION: &str = "27";

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    for step in [Step::Change, Step::Loom, Step::Mutants] {
        let wanted = match arguments.only {
            Some(only) => only == step,
            // The models are among what holds for each change.
            None => step == Step::Change || arguments.full && step == Step::Mutants,
        };
        if wanted {
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
    let cargo_mutants = cargo_mutants()?;
    let known = |name: &str| only.is_none_or(|only| only == name);
    let chosen: Vec<_> = MUTATED.iter().filter(|(name, _)| known(name)).collect();
    if chosen.is_empty() {
        let names = MUTATED.map(|(name, _)| name).join(", ");
        bail!(
            "nothing of {:?} is mutated; known: {names}",
            only.unwrap_or_default()
        );
    }
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
        .args(["--minimum-test-timeout", "60", "--output"])
        .arg(&output);
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
    let mut rows = explained.lines();
    rows.any(|row| row.contains(&format!("`{file}`")) && row.contains(&format!("`{what}`")))
}

/// The program, which is installed beside the target's other tools if it is not there.
fn cargo_mutants() -> Result<PathBuf> {
    let tools = workspace::target().join("tools");
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
    use super::*;

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
}
