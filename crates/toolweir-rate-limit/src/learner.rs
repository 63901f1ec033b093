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
//! - What the server has dealt with from one refusal to the next bounds what the refusal does, as in
//!   TCP Westwood (Mascolo et al., 2001). It is also the rate at which callers are told to come back:
//!   it is known to be possible, and stays while the rate itself goes up and down.
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

/// So many cells must be dealt with, for a rate to be measured.
const SAMPLE: u64 = 8;

/// A rate is known if what it is with pauses counted, and without, is no farther apart than this, in
/// percent: nobody can tell whether the server saves up calls in a pause.
const KNOWN_WITHIN: u64 = 120;

/// Slots are never farther apart than at this part of the rate, in percent, whatever was measured: it
/// may be long ago.
const SLOWEST_SLOTS: u64 = 65;

/// The longest wait that is told whole when the rate is known. Later it may be another.
const FAR: u64 = 120 * SECOND;

/// In how many rounds all come again while nothing is known.
const SPREAD: u64 = 16;

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
    /// What the server deals with while it is asked for all it can do. `None`: it is not.
    stretch: Option<Stretch>,
    /// How much that was in a second, when it was last known.
    measured: Option<u64>,
}

/// What was dealt with since a refusal, or since the first call, in cells.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    begun: Nano,
    served: u64,
    /// For how much of the time nothing was sent because the server wanted it so.
    paused: u64,
}

/// How much a server does in a second, if it saves up calls in a pause, and if it does not.
#[derive(Debug, Clone, Copy)]
struct Measure {
    low: u64,
    high: u64,
}

impl Learner {
    /// `first_rate` is in calls a second.
    pub(crate) fn new(first_rate: NonZeroU32) -> Self {
        Self {
            rate: (u64::from(first_rate.get()) * PARTS).min(FASTEST),
            since: 0,
            step: None,
            is_limiting: false,
            stretch: None,
            measured: None,
        }
    }

    /// The time between two calls, in nanoseconds, rounded up.
    pub(crate) const fn interval(&self) -> u64 {
        FASTEST.div_ceil(self.rate)
    }

    /// The time between the slots of two calls that are told to come back, once the rate is known: no
    /// less than between two calls. The ordinary ups and downs of the rate leave such slots possible.
    pub(crate) fn spacing(&self) -> Option<u64> {
        let slowest = self.rate * SLOWEST_SLOTS / 100;
        let rate = self.measured?.max(slowest).min(self.rate);
        Some(FASTEST.div_ceil(rate))
    }

    /// Somebody wants to go faster.
    pub(crate) const fn limits(&mut self) {
        self.is_limiting = true;
    }

    /// The server has dealt with a call that was sent then, and cost so much. Whether the rate is
    /// another now.
    pub(crate) fn served(&mut self, sent: Nano, cost: NonZeroU32, now: Nano) -> bool {
        if self.step.is_none() {
            self.stretch.get_or_insert(Stretch::new(sent));
        }
        if let Some(stretch) = &mut self.stretch {
            stretch.served = stretch.served.saturating_add(cost.get().into());
        }
        let is_tried = sent >= self.since && now >= self.since.saturating_add(ROUND);
        if !is_tried {
            return false;
        }
        if !self.is_limiting {
            self.stretch = None;
            return false;
        }
        let step = self.step.unwrap_or(self.rate);
        self.set(self.rate.saturating_add(step), now);
        true
    }

    /// The server has refused a call that was sent then, and all others until `resumes`. Whether the
    /// rate is another now.
    pub(crate) fn refused(&mut self, sent: Nano, now: Nano, resumes: Nano) -> bool {
        if sent < self.since {
            return false;
        }
        let rate = match (self.measure(now), self.step) {
            (None, None) => self.rate * AFTER_SLOW_START / 100,
            (None, Some(_)) => self.milder(),
            // There may have been calls saved up before the first, so that it was less.
            (Some(Measure { low, .. }), None) => {
                (low * AFTER_REFUSAL / 100).clamp(self.rate / 4, self.milder())
            }
            (Some(measure), Some(_)) if measure.is_narrow() => {
                let before = self.measured.unwrap_or(measure.low);
                self.measured = Some(before.midpoint(measure.low));
                self.milder().max(measure.low.min(self.rate))
            }
            (Some(Measure { low, high }), Some(_)) => {
                (low.midpoint(high)).clamp(self.rate / 2, self.milder())
            }
        };
        if let Some(stretch) = &mut self.stretch {
            let pause = resumes.saturating_sub(now);
            stretch.paused = stretch.paused.saturating_add(pause);
        }
        self.set(rate, resumes);
        self.step = Some((self.rate / STEPS).max(1));
        true
    }

    /// How much the server has done in the stretch that ends with a refusal. The next one begins,
    /// unless this was too short to tell.
    fn measure(&mut self, now: Nano) -> Option<Measure> {
        let stretch = *self.stretch.get_or_insert(Stretch::new(now));
        let time = now.saturating_sub(stretch.begun);
        if stretch.served < SAMPLE || time <= stretch.paused {
            return None;
        }
        self.stretch = Some(Stretch::new(now));
        Some(Measure {
            low: stretch.rate(time),
            high: stretch.rate(time - stretch.paused),
        })
    }

    const fn milder(&self) -> u64 {
        self.rate * AFTER_REFUSAL / 100
    }

    /// How much of a wait a caller is told that is refused now. While nobody knows the rate, it may
    /// rise, and would leave cells to nobody if all came as late as it says now. So they come sooner,
    /// and ask again.
    pub(crate) fn told(&self, wait: u64) -> u64 {
        if wait <= 2 * ROUND {
            return wait;
        }
        match (self.step, self.measured) {
            // Spread, for each round's rate to be tried, and most to come when it is known.
            (None, _) => (ROUND + wait % (SPREAD * ROUND)).min(wait / 2),
            (Some(_), None) => wait / 5 * 4,
            (Some(_), Some(_)) if wait <= FAR => wait,
            (Some(_), Some(_)) => FAR / 2 + wait % (FAR / 2),
        }
    }

    fn set(&mut self, rate: u64, since: Nano) {
        self.rate = rate.clamp(SLOWEST, FASTEST);
        self.since = since;
        self.is_limiting = false;
    }
}

impl Stretch {
    const fn new(begun: Nano) -> Self {
        Self {
            begun,
            served: 0,
            paused: 0,
        }
    }

    /// In so much time.
    fn rate(&self, time: u64) -> u64 {
        let rate = u128::from(self.served) * u128::from(FASTEST) / u128::from(time);
        u64::try_from(rate).map_or(FASTEST, |rate| rate.clamp(SLOWEST, FASTEST))
    }
}

impl Measure {
    const fn is_narrow(&self) -> bool {
        self.high <= self.low * KNOWN_WITHIN / 100
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
        /// When the call was sent, what it cost, and when its answer came.
        Served(u64, NonZeroU32, u64),
        /// When it was sent, when its answer came, and when calls may go on.
        Refused(u64, u64, u64),
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
            8 => (time(), 1_u32..4, time()).prop_map(|(sent, cost, now)| {
                Step::Served(sent, NonZeroU32::new(cost).unwrap_or(FIRST), now)
            }),
            1 => (time(), time(), time())
                .prop_map(|(sent, now, resumes)| Step::Refused(sent, now, resumes)),
        ]
    }

    /// The same in plain words: what the rate was after the last refusal, how often it rose since, from
    /// when on it holds, and what was measured.
    struct Model {
        base: u128,
        rises: u32,
        was_refused: bool,
        since: u64,
        is_wanted: bool,
        /// From when on it is measured, how many were served, and the time in pauses.
        stretch: Option<(u64, u128, u128)>,
        measured: Option<u128>,
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

        fn spacing(&self) -> Option<u128> {
            let rate = self.measured?.max(self.rate() * 65 / 100);
            Some(1_000_000_000_000_000_u128.div_ceil(rate.min(self.rate())))
        }

        fn take(&mut self, step: Step) -> bool {
            match step {
                Step::Limits => {
                    self.is_wanted = true;
                    return false;
                }
                Step::Served(sent, cost, now) => {
                    if !self.was_refused {
                        self.stretch.get_or_insert((sent, 0, 0));
                    }
                    if let Some((_, served, _)) = &mut self.stretch {
                        *served += u128::from(cost.get());
                    }
                    let held = u128::from(now) >= u128::from(self.since) + 1_000_000_000;
                    if sent < self.since || !held {
                        return false;
                    }
                    if !self.is_wanted {
                        self.stretch = None;
                        return false;
                    }
                    self.rises += 1;
                    self.since = now;
                }
                Step::Refused(sent, now, resumes) => {
                    if sent < self.since {
                        return false;
                    }
                    self.base = self.after_refusal(now).max(278);
                    if let Some((_, _, paused)) = &mut self.stretch {
                        *paused += u128::from(resumes.saturating_sub(now));
                    }
                    (self.rises, self.was_refused, self.since) = (0, true, resumes);
                }
            }
            self.is_wanted = false;
            true
        }

        fn after_refusal(&mut self, now: u64) -> u128 {
            let (rate, milder) = (self.rate(), self.rate() * 85 / 100);
            match (self.measure(now), self.was_refused) {
                (None, false) => rate / 2,
                (None, true) => milder,
                (Some((low, _)), false) => milder.min(low * 85 / 100).max(rate / 4),
                (Some((low, high)), true) if high <= low * 120 / 100 => {
                    let before = self.measured.unwrap_or(low);
                    self.measured = Some(u128::midpoint(before, low));
                    milder.max(low.min(rate))
                }
                (Some((low, high)), true) => milder.min(u128::midpoint(low, high)).max(rate / 2),
            }
        }

        fn measure(&mut self, now: u64) -> Option<(u128, u128)> {
            let (begun, served, paused) = *self.stretch.get_or_insert((now, 0, 0));
            let time = u128::from(now.saturating_sub(begun));
            if served < 8 || time <= paused {
                return None;
            }
            self.stretch = Some((now, 0, 0));
            let rate = |time| {
                let rate: u128 = served * 1_000_000_000_000_000 / time;
                rate.clamp(278, 1_000_000_000_000_000)
            };
            Some((rate(time), rate(time - paused)))
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
            steps in prop::collection::vec(step(), 0..150),
        ) {
            let mut learner = Learner::new(NonZeroU32::new(first).unwrap_or(FIRST));
            let mut model = Model {
                base: u128::from(first) * 1_000_000,
                rises: 0,
                was_refused: false,
                since: 0,
                is_wanted: false,
                stretch: None,
                measured: None,
            };
            for step in steps {
                let is_another = match step {
                    Step::Limits => {
                        learner.limits();
                        false
                    }
                    Step::Served(sent, cost, now) => learner.served(sent, cost, now),
                    Step::Refused(sent, now, resumes) => learner.refused(sent, now, resumes),
                };
                prop_assert_eq!(is_another, model.take(step));
                let interval = 1_000_000_000_000_000_u128.div_ceil(model.rate());
                prop_assert_eq!(u128::from(learner.interval()), interval);
                prop_assert!((1..=3_600_000_000_000).contains(&learner.interval()));
                prop_assert_eq!(learner.spacing().map(u128::from), model.spacing());
            }
        }

        #[test]
        fn nobody_is_told_more_than_there_is_to_wait(wait in any::<u64>()) {
            let mut learner = Learner::new(FIRST);
            prop_assert!(learner.told(wait) <= wait.min(17 * SECOND));
            learner.refused(0, 0, 0);
            let told = learner.told(wait);
            prop_assert!(told <= wait && told >= wait / 5 * 4);
            let learner = known();
            let told = learner.told(wait);
            prop_assert!(told <= wait && told >= wait.min(60 * SECOND));
        }
    }

    #[test]
    fn the_first_refusal_takes_from_what_was_served() {
        let mut learner = Learner::new(NonZeroU32::new(16).unwrap_or(FIRST));
        for _ in 0..8 {
            learner.served(0, FIRST, 0);
        }
        learner.refused(0, SECOND, SECOND);
        // Of eight in that second.
        assert_eq!(learner.interval(), FASTEST.div_ceil(8 * 850_000));
    }

    /// A learner with one call a second, and after that eight from one refusal to the next.
    fn known() -> Learner {
        let mut learner = Learner::new(FIRST);
        learner.refused(0, 0, 0);
        for second in 1..=8 {
            learner.limits();
            learner.served(second * SECOND, FIRST, second * SECOND);
        }
        learner.refused(9 * SECOND, 10 * SECOND, 10 * SECOND);
        learner
    }

    #[test]
    fn a_wait_is_told_whole_up_to_two_seconds_and_up_to_two_minutes_when_the_rate_is_known() {
        let mut learner = Learner::new(FIRST);
        let told = |learner: &Learner, seconds: [u64; 4]| {
            seconds.map(|seconds| learner.told(seconds * SECOND) / SECOND)
        };
        assert_eq!(told(&learner, [2, 6, 40, 100]), [2, 3, 9, 5]);
        learner.refused(0, 0, 0);
        assert_eq!(told(&learner, [2, 5, 100, 1000]), [2, 4, 80, 800]);
        assert_eq!(told(&known(), [2, 5, 120, 150]), [2, 5, 120, 90]);
    }
}
