//! Cold, warming, warm or resting: the state machine. It takes the time and never waits.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{
    Reason, Rejection,
    time::{millis, millis_ceil, saturating_add},
};

use crate::{WarmUpConfig, WarmUpState, Warmth};

/// The layer's name in its rejections.
pub(crate) const LAYER: &str = "warm-up";

/// The shortest time after which somebody is told to look again.
const MOMENT: Duration = Duration::from_millis(250);

/// The longest rest that a refusal further in may bring about.
const LONGEST_REST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Machine {
    config: WarmUpConfig,
    phase: Phase,
    /// The number of the newest warm-up. Whatever an older one says is of no interest.
    newest: u64,
    failures: u32,
    /// How many refusals in a row, since the last success, said no time to come back.
    untimed: u32,
    last_error: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Cold,
    Warming {
        since: Instant,
        step: Option<Arc<str>>,
    },
    Warm {
        since: Instant,
        took: Duration,
        epoch: u64,
    },
    /// Nothing is tried after a failure, or after this refusal.
    Resting {
        until: Instant,
        refusal: Option<Rejection>,
    },
}

/// What is to be done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Warm,
    /// A warm-up is in flight.
    Join,
    /// A warm-up must be started.
    Start,
    /// The last warm-up failed, and the next one is due after this time.
    Refuse(Duration),
}

/// How a warm-up ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Landed {
    /// Warm, for the connection of this epoch.
    Warm {
        epoch: u64,
    },
    Failed {
        error: Arc<str>,
    },
    /// A layer further in refused a step. That is no failure of the server's.
    Refused {
        error: Arc<str>,
        rejection: Rejection,
    },
}

impl Machine {
    pub(crate) const fn new(config: WarmUpConfig) -> Self {
        Self {
            config,
            phase: Phase::Cold,
            newest: 0,
            failures: 0,
            untimed: 0,
            last_error: None,
        }
    }

    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        match self.phase {
            Phase::Cold => Verdict::Start,
            Phase::Warming { .. } => Verdict::Join,
            Phase::Warm { .. } => Verdict::Warm,
            Phase::Resting { until, .. } if now < until => Verdict::Refuse(until - now),
            Phase::Resting { .. } => Verdict::Start,
        }
    }

    /// Begins a warm-up and returns its number.
    pub(crate) fn begin(&mut self, now: Instant) -> u64 {
        self.newest += 1;
        self.phase = Phase::Warming {
            since: now,
            step: None,
        };
        self.newest
    }

    /// Whether this warm-up is in flight, and nobody has invalidated it.
    pub(crate) const fn is_in_flight(&self, number: u64) -> bool {
        matches!(self.phase, Phase::Warming { .. }) && number == self.newest
    }

    /// The warm-up has come to this step.
    pub(crate) fn enter(&mut self, number: u64, name: Arc<str>) {
        if !self.is_in_flight(number) {
            return;
        }
        if let Phase::Warming { step, .. } = &mut self.phase {
            *step = Some(name);
        }
    }

    /// The warm-up is over. Returns whether that changed anything.
    pub(crate) fn land(&mut self, number: u64, landed: Landed, now: Instant) -> bool {
        let Phase::Warming { since, .. } = self.phase else {
            return false;
        };
        if number != self.newest {
            return false;
        }
        match landed {
            Landed::Warm { epoch } => {
                self.failures = 0;
                self.untimed = 0;
                self.last_error = None;
                self.phase = Phase::Warm {
                    since: now,
                    took: now.saturating_duration_since(since),
                    epoch,
                };
            }
            Landed::Failed { error } => {
                let rest = self.backoff();
                self.failures = self.failures.saturating_add(1);
                self.rest(error, rest, None, now);
            }
            Landed::Refused { error, rejection } => {
                let rest = rejection.retry_after().unwrap_or_else(|| {
                    let rest = self.backoff();
                    self.untimed = self.untimed.saturating_add(1);
                    rest
                });
                let rest = rest.clamp(Duration::from_millis(1), LONGEST_REST);
                self.rest(error, rest, Some(rejection), now);
            }
        }
        true
    }

    /// What was warm is cold, what is in flight is void, and what failed may be tried at once.
    pub(crate) fn invalidate(&mut self) {
        self.phase = Phase::Cold;
        self.failures = 0;
        self.untimed = 0;
    }

    /// The epoch has moved on from `stamp`, where the layer took it to be warm.
    pub(crate) fn outdate(&mut self, stamp: u64) {
        // Somebody else may have seen to it already, and the layer be warm again.
        if matches!(self.phase, Phase::Warm { epoch, .. } if epoch == stamp) {
            self.phase = Phase::Cold;
        }
    }

    /// The epoch for which the layer is warm.
    pub(crate) const fn warm_epoch(&self) -> Option<u64> {
        match self.phase {
            Phase::Warm { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// When it makes sense to come back for who does not wait any longer.
    fn come_back(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Warming { since, .. } => {
                // Nobody knows how long it takes. As long again as it has taken, and the number of
                // those who look in vain grows with the logarithm of the time.
                let elapsed = now.saturating_duration_since(since);
                let left = self.config.timeout.saturating_sub(elapsed).max(MOMENT);
                elapsed.clamp(MOMENT, left)
            }
            Phase::Resting { until, .. } => until.saturating_duration_since(now).max(MOMENT),
            Phase::Cold | Phase::Warm { .. } => MOMENT,
        }
    }

    /// The refusal of a call that came while nothing is tried. A layer further in has said itself why,
    /// and where only a person can mend it there is no time to come back.
    pub(crate) fn failed(&self, retry_after: Duration) -> Rejection {
        if let Phase::Resting {
            refusal: Some(refusal),
            ..
        } = &self.phase
        {
            let refusal = refusal.clone();
            return if refusal.reason().is_terminal() {
                refusal
            } else {
                refusal.with_retry_after(retry_after)
            };
        }
        let rejection = Rejection::new(LAYER, Reason::WarmUpFailed).with_retry_after(retry_after);
        match &self.last_error {
            Some(error) => rejection.with_detail(error.to_string()),
            None => rejection,
        }
    }

    /// The refusal of a call whose wait is over.
    pub(crate) fn out_of_patience(&self, reason: Reason, now: Instant) -> Rejection {
        let rejection = Rejection::new(LAYER, reason).with_retry_after(self.come_back(now));
        match &self.phase {
            Phase::Warming {
                step: Some(step), ..
            } => rejection.with_detail(format!("the warm-up is at step {step:?} and goes on")),
            _ => rejection,
        }
    }

    pub(crate) fn snapshot(&self, now: Instant) -> WarmUpState {
        let mut state = WarmUpState {
            warmth: Warmth::Cold,
            since_ms: None,
            took_ms: None,
            step: None,
            warm_ups: self.newest,
            failures: self.failures,
            last_error: self.last_error.as_deref().map(str::to_owned),
            retry_after_ms: None,
        };
        let age = |since| Some(millis(now.saturating_duration_since(since)));
        match &self.phase {
            Phase::Cold => {}
            Phase::Warming { since, step } => {
                state.warmth = Warmth::Warming;
                state.since_ms = age(*since);
                state.step = step.as_deref().map(str::to_owned);
                state.retry_after_ms = Some(millis_ceil(self.come_back(now)));
            }
            Phase::Warm { since, took, .. } => {
                state.warmth = Warmth::Warm;
                state.since_ms = age(*since);
                state.took_ms = Some(millis(*took));
            }
            Phase::Resting { until, .. } => {
                state.warmth = Warmth::Failed;
                let left = until.saturating_duration_since(now);
                state.retry_after_ms = Some(millis_ceil(left));
            }
        }
        state
    }

    fn backoff(&self) -> Duration {
        let in_a_row = self.failures.saturating_add(self.untimed);
        let factor = 2_u32.saturating_pow(in_a_row);
        self.config
            .initial_backoff
            .saturating_mul(factor)
            .min(self.config.max_backoff)
    }

    fn rest(&mut self, error: Arc<str>, rest: Duration, refusal: Option<Rejection>, now: Instant) {
        self.last_error = Some(error);
        self.phase = Phase::Resting {
            until: saturating_add(now, rest),
            refusal,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn machine() -> Machine {
        Machine::new(WarmUpConfig::default())
    }

    fn failed() -> Landed {
        Landed::Failed {
            error: "down".into(),
        }
    }

    fn refused(reason: Reason, retry_after: Option<Duration>) -> Landed {
        let mut rejection = Rejection::new("further-in", reason);
        if let Some(retry_after) = retry_after {
            rejection = rejection.with_retry_after(retry_after);
        }
        Landed::Refused {
            error: "refused".into(),
            rejection,
        }
    }

    #[test]
    fn refusals_without_a_time_are_tried_less_and_less_often() {
        let mut now = Instant::now();
        let mut machine = machine();
        for millis in [500, 1000, 2000, 4000] {
            let number = machine.begin(now);
            machine.land(number, refused(Reason::ShuttingDown, None), now);
            let rest = Duration::from_millis(millis);
            assert_eq!(machine.verdict(now), Verdict::Refuse(rest));
            now += rest;
        }
        let number = machine.begin(now);
        machine.land(number, Landed::Warm { epoch: 0 }, now);
        machine.outdate(0);
        let number = machine.begin(now);
        machine.land(number, refused(Reason::ShuttingDown, None), now);
        assert_eq!(machine.verdict(now), Verdict::Refuse(SECOND / 2));
    }

    #[test]
    fn what_an_older_warm_up_says_changes_nothing() {
        let now = Instant::now();
        let mut machine = machine();
        let void = machine.begin(now);
        machine.invalidate();
        assert!(!machine.land(void, Landed::Warm { epoch: 0 }, now));
        assert_eq!(machine.verdict(now), Verdict::Start);
        let newest = machine.begin(now);
        assert!(!machine.land(void, failed(), now));
        assert!(!machine.is_in_flight(void));
        assert_eq!(machine.verdict(now), Verdict::Join);
        assert!(machine.land(newest, Landed::Warm { epoch: 0 }, now));
        assert!(!machine.land(newest, failed(), now));
        assert_eq!(machine.verdict(now), Verdict::Warm);
    }

    #[test]
    fn an_epoch_that_was_seen_to_already_is_not_outdated_again() {
        let now = Instant::now();
        let mut machine = machine();
        let number = machine.begin(now);
        machine.land(number, Landed::Warm { epoch: 2 }, now);
        machine.outdate(1);
        assert_eq!(machine.verdict(now), Verdict::Warm);
        machine.outdate(2);
        assert_eq!(machine.verdict(now), Verdict::Start);
    }

    #[test]
    fn no_refusal_further_in_stops_it_for_good_or_for_no_time() {
        let now = Instant::now();
        for (asked, rest) in [
            (Some(Duration::MAX), LONGEST_REST),
            (Some(Duration::ZERO), Duration::from_millis(1)),
            (None, Duration::from_millis(500)),
        ] {
            let mut machine = machine();
            let number = machine.begin(now);
            machine.land(number, refused(Reason::QuotaSpent, asked), now);
            assert_eq!(machine.verdict(now), Verdict::Refuse(rest));
            assert_eq!(machine.verdict(now + rest), Verdict::Start);
        }
    }

    #[test]
    fn who_gives_up_is_told_to_come_back_later_each_time_and_never_after_the_end() {
        let now = Instant::now();
        let mut machine = machine();
        machine.begin(now);
        for (elapsed, come_back) in [(0, 250), (100, 250), (4000, 4000), (40_000, 20_000)] {
            let elapsed = Duration::from_millis(elapsed);
            let come_back = Duration::from_millis(come_back);
            assert_eq!(machine.come_back(now + elapsed), come_back);
        }
        assert_eq!(machine.come_back(now + 100 * SECOND), MOMENT);
    }
}
