//! Learns a rate from what the server answers: additive increase, multiplicative decrease, after a
//! slow start. Pure: it takes the time from its caller.
//!
//! It is TCP's congestion control ([RFC 5681]) with calls a second in the place of a window, and a
//! second in the place of a round trip; Chiu and Jain (1989) have shown why clients that share a
//! server come to fair shares this way. As there:
//!
//! - Before the first refusal the rate doubles with each round, since nobody knows how high it is.
//!   The refusal halves it.
//! - From then on it rises by the same step with each round, and falls by a factor with each refusal.
//!   The factor is milder than TCP's half, for each refusal is a call that must be made again.
//! - It rises only if somebody wanted to go faster: else the answers say nothing of a higher rate
//!   ([RFC 7661]).
//! - Answers to calls that were sent before the rate was last changed do not change it again: the
//!   refusals of one moment are one sign ([RFC 6582]).
//!
//! [RFC 5681]: https://www.rfc-editor.org/rfc/rfc5681
//! [RFC 6582]: https://www.rfc-editor.org/rfc/rfc6582
//! [RFC 7661]: https://www.rfc-editor.org/rfc/rfc7661

use std::num::NonZeroU32;

use crate::bucket::Nano;

const SECOND: u64 = 1_000_000_000;

/// Rates are in so many parts of a call a second.
const PARTS: u64 = 1_000_000;

/// A call an hour, rounded up.
const SLOWEST: u64 = 278;

/// A call a nanosecond.
const FASTEST: u64 = 1_000_000_000_000_000;

/// How long a rate is tried before it rises.
const ROUND: u64 = SECOND;

/// What is left of the rate after a refusal, in percent: of the one that the slow start came to, and
/// of a later one.
const AFTER_SLOW_START: u64 = 50;
const AFTER_REFUSAL: u64 = 85;

/// The step by which the rate rises: this part of what it was after the last refusal.
const STEPS: u64 = 100;

#[derive(Debug)]
pub(crate) struct Learner {
    rate: u64,
    /// From when on calls are sent at this rate.
    since: Nano,
    /// By how much the rate rises. `None`: it doubles.
    step: Option<u64>,
    /// Whether anybody would have gone faster.
    is_limiting: bool,
}

impl Learner {
    /// `first_rate` is in calls a second.
    pub(crate) fn new(first_rate: NonZeroU32) -> Self {
        Self {
            rate: (u64::from(first_rate.get()) * PARTS).min(FASTEST),
            since: 0,
            step: None,
            is_limiting: false,
        }
    }

    /// The time between two calls, in nanoseconds, rounded up.
    pub(crate) const fn interval(&self) -> u64 {
        FASTEST.div_ceil(self.rate)
    }

    /// Somebody wants to go faster.
    pub(crate) const fn limits(&mut self) {
        self.is_limiting = true;
    }

    /// The server has dealt with a call that was sent then. Whether the rate is another now.
    pub(crate) fn served(&mut self, sent: Nano, now: Nano) -> bool {
        let is_tried = sent >= self.since && now >= self.since.saturating_add(ROUND);
        if !is_tried || !self.is_limiting {
            return false;
        }
        let step = self.step.unwrap_or(self.rate);
        self.set(self.rate.saturating_add(step), now);
        true
    }

    /// The server has refused a call that was sent then, and all others until `resumes`. Whether the
    /// rate is another now.
    pub(crate) fn refused(&mut self, sent: Nano, resumes: Nano) -> bool {
        if sent < self.since {
            return false;
        }
        let percent = if self.step.is_some() {
            AFTER_REFUSAL
        } else {
            AFTER_SLOW_START
        };
        self.set(self.rate * percent / 100, resumes);
        self.step = Some((self.rate / STEPS).max(1));
        true
    }

    /// How much of a wait a caller is told that is refused now. A rate that may rise would leave
    /// cells to nobody if all came as late as it says now. So they come sooner, and ask again.
    pub(crate) const fn told(&self, wait: u64) -> u64 {
        if wait <= 2 * ROUND {
            return wait;
        }
        match self.step {
            // Spread over a round, for each round's rate to be tried.
            None => ROUND + wait % ROUND,
            Some(_) => wait / 5 * 4,
        }
    }

    fn set(&mut self, rate: u64, since: Nano) {
        self.rate = rate.clamp(SLOWEST, FASTEST);
        self.since = since;
        self.is_limiting = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: NonZeroU32 = NonZeroU32::MIN;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Limits,
        /// When the call was sent, and when its answer came.
        Served(u64, u64),
        /// When it was sent, and when calls may go on.
        Refused(u64, u64),
    }

    /// Some seconds, to the nanosecond where it matters, or any time there is.
    fn time() -> impl Strategy<Value = u64> {
        let near = (0_u64..30, -1_i64..2)
            .prop_map(|(seconds, nanos)| (seconds * SECOND).saturating_add_signed(nanos));
        prop_oneof![8 => near, 4 => 0..30 * SECOND, 1 => any::<u64>()]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Limits),
            4 => (time(), time()).prop_map(|(sent, now)| Step::Served(sent, now)),
            1 => (time(), time()).prop_map(|(sent, resumes)| Step::Refused(sent, resumes)),
        ]
    }

    /// The same in plain words: what the rate was after the last refusal, how often it rose since, and
    /// from when on it holds.
    struct Model {
        base: u128,
        rises: u32,
        was_refused: bool,
        since: u64,
        is_wanted: bool,
    }

    impl Model {
        fn rate(&self) -> u128 {
            let rate = if self.was_refused {
                self.base + (self.base / 100).max(1) * u128::from(self.rises)
            } else {
                self.base << self.rises.min(64)
            };
            rate.min(1_000_000_000_000_000)
        }

        fn take(&mut self, step: Step) -> bool {
            match step {
                Step::Limits => {
                    self.is_wanted = true;
                    return false;
                }
                Step::Served(sent, now) => {
                    let held = u128::from(now) >= u128::from(self.since) + 1_000_000_000;
                    if sent < self.since || !held || !self.is_wanted {
                        return false;
                    }
                    self.rises += 1;
                    self.since = now;
                }
                Step::Refused(sent, resumes) => {
                    if sent < self.since {
                        return false;
                    }
                    let percent = if self.was_refused { 85 } else { 50 };
                    self.base = (self.rate() * percent / 100).max(278);
                    (self.rises, self.was_refused, self.since) = (0, true, resumes);
                }
            }
            self.is_wanted = false;
            true
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_learner_is_its_model_whatever_the_times_are(
            first in 1_u32..,
            steps in prop::collection::vec(step(), 0..50),
        ) {
            let mut learner = Learner::new(NonZeroU32::new(first).unwrap_or(FIRST));
            let mut model = Model {
                base: u128::from(first) * 1_000_000,
                rises: 0,
                was_refused: false,
                since: 0,
                is_wanted: false,
            };
            for step in steps {
                let is_another = match step {
                    Step::Limits => {
                        learner.limits();
                        false
                    }
                    Step::Served(sent, now) => learner.served(sent, now),
                    Step::Refused(sent, resumes) => learner.refused(sent, resumes),
                };
                prop_assert_eq!(is_another, model.take(step));
                let interval = 1_000_000_000_000_000_u128.div_ceil(model.rate());
                prop_assert_eq!(u128::from(learner.interval()), interval);
                prop_assert!((1..=3_600_000_000_000).contains(&learner.interval()));
            }
        }

        #[test]
        fn nobody_is_told_more_than_there_is_to_wait(wait in any::<u64>()) {
            let mut learner = Learner::new(FIRST);
            prop_assert!(learner.told(wait) <= wait.min(2 * SECOND));
            learner.refused(0, 0);
            let told = learner.told(wait);
            prop_assert!(told <= wait && told >= wait / 5 * 4);
        }
    }

    #[test]
    fn a_wait_is_told_whole_up_to_two_seconds() {
        let mut learner = Learner::new(FIRST);
        assert_eq!(learner.told(2 * SECOND), 2 * SECOND);
        assert_eq!(learner.told(2 * SECOND + 7), SECOND + 7);
        learner.refused(0, 0);
        assert_eq!(learner.told(2 * SECOND), 2 * SECOND);
        assert_eq!(learner.told(5 * SECOND), 4 * SECOND);
    }
}
