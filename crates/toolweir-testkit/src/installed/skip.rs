//! What a test does on a machine that lacks something.

use std::{env, ffi::OsStr, io::Write as _};

use super::Error;

/// What there is, or `None` where the test is to be skipped, which stderr is told.
///
/// A test is skipped where the machine lacks what a server runs on. Anything else that is wrong fails
/// it, and so does a lack where the environment's `CI` is set: there, nobody reads that a test was
/// skipped.
///
/// # Panics
///
/// To fail the test.
#[must_use]
pub fn or_skip<T>(result: Result<T, Error>) -> Option<T> {
    let error = match result {
        Ok(there) => return Some(there),
        Err(error) => error,
    };
    match verdict(&error, env::var_os("CI").as_deref()) {
        Verdict::Skip => {
            // Not by `eprintln!`, which the test harness keeps to itself.
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            None
        }
        Verdict::Fail => panic!("{error}{}", source(&error)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Skip,
    Fail,
}

fn verdict(error: &Error, ci: Option<&OsStr>) -> Verdict {
    let is_ci = ci.is_some_and(|value| !value.is_empty());
    match error {
        Error::Missing { .. } if !is_ci => Verdict::Skip,
        _ => Verdict::Fail,
    }
}

fn source(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(String::new, |source| format!(": {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: Error = Error::Missing {
        what: "npm",
        program: "node",
        remedy: "Node.js",
    };

    #[test]
    fn a_lack_skips_a_test_except_in_ci() {
        assert_eq!(verdict(&MISSING, None), Verdict::Skip);
        assert_eq!(verdict(&MISSING, Some("".as_ref())), Verdict::Skip);
        assert_eq!(verdict(&MISSING, Some("true".as_ref())), Verdict::Fail);
        assert_eq!(verdict(&MISSING, Some("1".as_ref())), Verdict::Fail);
    }

    #[test]
    fn an_installation_that_fails_is_never_passed_over() {
        let failed = Error::Install {
            what: "npm",
            reason: "no network".to_owned(),
        };
        assert_eq!(verdict(&failed, None), Verdict::Fail);
    }

    #[test]
    fn it_says_what_is_missing_and_what_to_do() {
        let text = MISSING.to_string();
        assert!(text.contains("no node; install Node.js"), "{text}");
    }
}
