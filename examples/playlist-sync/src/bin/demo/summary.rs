//! The summary that a person reads, and whether the demo kept its promise.

use std::fmt::Write as _;

use crate::{
    arguments::Arguments,
    figures::{Expected, Figures},
};

impl Figures {
    /// The figures as a few lines of text.
    pub(crate) fn summary(&self, arguments: &Arguments) -> String {
        let protection = if arguments.unprotected {
            "without layers"
        } else {
            "through the layers"
        };
        let mut text = format!("The playlist sync {protection}, {:.0} s:\n", self.seconds);
        for (name, line) in [
            ("runs", self.runs()),
            ("backfills", self.backfills(arguments)),
            ("tool calls", self.calls()),
            ("server", self.server()),
            ("tracks", self.tracks()),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<11}{line}");
        }
        text
    }

    fn runs(&self) -> String {
        format!(
            "{} started, {} completed, {} skipped by preflight, {} failed; \
             {} skipped by the schedule's overlap policy",
            self.runs_started,
            self.runs_completed,
            self.runs_skipped,
            self.runs_failed,
            self.overlap_skipped
        )
    }

    fn backfills(&self, arguments: &Arguments) -> String {
        let all = 2 * usize::from(arguments.days);
        let lost = all.saturating_sub(self.backfill_completed);
        format!(
            "{} of {all} runs completed, {lost} lost",
            self.backfill_completed
        )
    }

    fn calls(&self) -> String {
        let millis =
            |ms: Option<u64>| ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms} ms"));
        format!(
            "{}, of which the server throttled {}; the first took {}, the median {}",
            self.tool_calls,
            self.server_throttled,
            millis(self.first_call_ms),
            millis(self.median_call_ms)
        )
    }

    fn server(&self) -> String {
        format!(
            "started {} time(s), token refreshed {} time(s)",
            self.server_starts, self.token_refreshes
        )
    }

    fn tracks(&self) -> String {
        format!(
            "{} of {} in their playlists, {} more than once",
            self.tracks_present, self.tracks_expected, self.tracks_duplicated
        )
    }

    /// Where the demo falls short of what it promises. Without layers it promises nothing.
    pub(crate) fn shortfalls(&self, arguments: &Arguments, expected: &Expected) -> Vec<String> {
        if arguments.unprotected {
            return Vec::new();
        }
        let mut shortfalls = expected.unreadable.clone();
        let backfilled = 2 * usize::from(arguments.days);
        let checks = [
            (
                self.tracks_expected > 0,
                "no track of the exports can be found",
            ),
            (
                self.tracks_present == self.tracks_expected,
                "tracks are missing from their playlists",
            ),
            (
                self.tracks_duplicated == 0,
                "tracks stand in a playlist more than once",
            ),
            (
                self.backfill_completed == backfilled,
                "backfilled runs did not complete",
            ),
            (self.runs_failed == 0, "runs failed"),
        ];
        shortfalls.extend(
            checks
                .into_iter()
                .filter(|(holds, _)| !holds)
                .map(|(_, what)| what.to_owned()),
        );
        shortfalls
    }
}
