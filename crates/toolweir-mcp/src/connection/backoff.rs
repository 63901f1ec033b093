//! When a connection is tried again: pure, given the time.

use std::time::Duration;

use tokio::time::Instant;
use toolweir_core::time::saturating_add;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// A connection that was lost sooner than this counts as failed: a server that starts well and
/// dies at once must not be started in a tight loop.
const STEADY: Duration = Duration::from_secs(5);

/// The failures in a row, and what follows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    /// How long to wait for the next try; `None` if it may be made now.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.not_before?.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// No connection was made, and the server `asked` for a pause, or did not. `spread` is a random
    /// number from 0 to 1.
    pub(crate) fn failed(&mut self, now: Instant, asked: Option<Duration>, spread: f64) {
        self.failures = self.failures.saturating_add(1);
        self.put_off(now, spread);
        if let Some(pause) = asked {
            // A little later, so that those who were told the same do not come back together.
            let pause = pause.saturating_add(FIRST.mul_f64(spread.clamp(0.0, 1.0)));
            self.not_before = self.not_before.max(Some(saturating_add(now, pause)));
        }
    }

    /// A connection was lost after it had lived for `lived`.
    ///
    /// The first one that dies young is replaced at once: servers are killed and redeployed.
    pub(crate) fn lost(&mut self, now: Instant, lived: Duration, spread: f64) {
        self.stopped(lived);
        if lived >= STEADY {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 {
            self.put_off(now, spread);
        }
    }

    /// A connection was given up, by no fault of its own, after it had lived for `lived`.
    pub(crate) fn stopped(&mut self, lived: Duration) {
        if lived >= STEADY {
            *self = Self::default();
        }
    }

    /// Half to all of the exponential step, so that workers do not come back together.
    fn put_off(&mut self, now: Instant, spread: f64) {
        let doublings = self.failures.saturating_sub(1).min(16);
        let step = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        let wait = step.mul_f64(spread.clamp(0.0, 1.0).midpoint(1.0));
        self.not_before = Some(saturating_add(now, wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_put_off_further_and_further() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait(now), None);
        for millis in [250, 500, 1000, 2000] {
            backoff.failed(now, None, 1.0);
            assert_eq!(backoff.wait(now), Some(Duration::from_millis(millis)));
        }
        for _ in 0..100 {
            backoff.failed(now, None, 1.0);
        }
        assert_eq!(backoff.wait(now), Some(LONGEST));
        assert_eq!(backoff.wait(now + LONGEST), None);
    }

    /// What the documentation of `restart_budget` says of it.
    #[tokio::test(start_paused = true)]
    async fn ten_minutes_hold_some_25_to_45_failures() {
        let failures = |spread| {
            let begun = Instant::now();
            let (mut now, mut backoff) = (begun, Backoff::default());
            let mut failures = 0;
            while now - begun < Duration::from_secs(600) {
                backoff.failed(now, None, spread);
                failures += 1;
                now += backoff.wait(now).unwrap();
            }
            failures
        };
        assert_eq!((failures(1.0), failures(0.0)), (26, 46));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_s_own_pause_is_kept_where_it_is_longer() {
        let (now, pause) = (Instant::now(), Duration::from_secs(60));
        for spread in [0.0, 0.5, 1.0] {
            let mut backoff = Backoff::default();
            backoff.failed(now, Some(pause), spread);
            let wait = backoff.wait(now).unwrap();
            assert!(wait >= pause && wait <= pause + FIRST, "{wait:?}");
            // And it is one failure, as any other.
            backoff.failed(now + wait, None, 1.0);
            let next = backoff.wait(now + wait);
            assert_eq!(next, Some(FIRST * 2));
        }
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.failed(now, Some(Duration::from_millis(1)), 1.0);
        }
        assert_eq!(backoff.wait(now), Some(LONGEST));
        backoff.failed(now, Some(Duration::MAX), 1.0);
        assert!(backoff.wait(now) > Some(LONGEST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_connection_clears_the_past() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now, None, 0.0);
        backoff.lost(now, STEADY, 0.0);
        assert_eq!(backoff.wait(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_early_death_in_a_row_is_put_off() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.lost(now, Duration::ZERO, 0.0);
        assert_eq!(backoff.wait(now), None);
        backoff.lost(now, Duration::ZERO, 0.0);
        assert_eq!(backoff.wait(now), Some(Duration::from_millis(250)));
    }
}
