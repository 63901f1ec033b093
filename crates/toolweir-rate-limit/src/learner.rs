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
const SLOWEST: u64 = PARTS / 3_600 + 1;

/// A call a nanosecond.
const FASTEST: u64 = PARTS * SECOND;

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
            rate: u64::from(first_rate.get()) * PARTS,
            since: 0,
            step: None,
            is_limiting: false,
        }
    }

    /// The time between two calls, in nanoseconds, rounded up.
    pub(crate) const fn interval(&self) -> u64 {
        (PARTS * SECOND).div_ceil(self.rate)
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
