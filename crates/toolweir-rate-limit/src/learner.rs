//! Learns a rate from what the server answers. Pure: it takes the time from its caller.
//!
//! Before the server has refused anything, calls are limited by how many are under way, twice as
//! many with each round, because nobody knows how fast they may come. From the first refusal on they
//! are paced.
//!
//! Each refusal of a call that was sent after the last one ends an episode. At its begin and at its
//! end the server had nothing left to give. So what it served in between, over the time in between,
//! is its rate; or less than that, where it had more saved up than it keeps.

use crate::bucket::Nano;

/// Among how many calls that were served one may be sent on trial.
const SERVED_FOR_ONE: u64 = 50;

/// How long a gap must be, at least, for a server to have saved up something in it.
const IDLE: u64 = 1_000_000_000;

/// The intervals between callers who are told to come back while nothing is known.
const FASTEST_GUESS: u64 = 1_000_000;
const SLOWEST_GUESS: u64 = 100_000_000;

/// An interval is never longer.
const LONGEST: u64 = 3_600_000_000_000;

#[derive(Debug)]
pub(crate) struct Learner {
    first_calls: u64,
    under_way: u64,
    /// How many calls may be under way, before the first refusal.
    window: u64,
    phase: Phase,
    /// The present pace, and the one with which the episode began.
    version: Version,
    episode: Version,
    begun: Option<Nano>,
    /// The episode began with a refusal, and the server was never idle since.
    from_empty: bool,
    served: u64,
    resumed: Nano,
    last_sent: Nano,
    /// How many the server took at once, at most, before it first refused any.
    burst: u64,
    /// The interval that the last episode gave, before anything was made of it.
    measured: u64,
    /// On how many calls the present interval rests.
    support: u64,
    pause: u64,
    /// Whether anybody would have gone faster since the pace was last changed.
    is_limiting: bool,
    is_ramping: bool,
    quiet_since: Nano,
    quiet_periods: u32,
}

/// The number of a pace. Answers to calls that were sent at an earlier one say nothing of it.
pub(crate) type Version = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was refused yet.
    Open,
    /// Something was, just now, and the answers that are on their way say how much was not.
    Settling { refused: Nano },
    /// One cell for each of so many nanoseconds.
    Paced { interval: u64 },
}

impl Learner {
    pub(crate) fn new(first_calls: u32) -> Self {
        Self {
            first_calls: first_calls.into(),
            under_way: 0,
            window: 1,
            phase: Phase::Open,
            version: 0,
            episode: 0,
            begun: None,
            from_empty: false,
            served: 0,
            resumed: 0,
            last_sent: 0,
            burst: 0,
            measured: 0,
            support: 0,
            pause: 0,
            is_limiting: false,
            is_ramping: false,
            quiet_since: 0,
            quiet_periods: 0,
        }
    }

    /// What is learned so far.
    pub(crate) const fn interval(&self) -> Option<u64> {
        match self.phase {
            Phase::Paced { interval } => Some(interval),
            Phase::Open | Phase::Settling { .. } => None,
        }
    }

    pub(crate) const fn is_settling(&self) -> bool {
        matches!(self.phase, Phase::Settling { .. })
    }

    pub(crate) const fn under_way(&self) -> u64 {
        self.under_way
    }

    /// How many calls may be made, before the first refusal.
    pub(crate) const fn room(&self) -> u64 {
        match self.phase {
            Phase::Open => self.window.saturating_sub(self.under_way),
            Phase::Settling { .. } | Phase::Paced { .. } => 0,
        }
    }

    /// In which time a call passes, as far as anything is known before the first refusal.
    pub(crate) fn guess(&self, now: Nano) -> u64 {
        let elapsed = self.begun.map_or(0, |begun| now.saturating_sub(begun));
        let interval = elapsed.checked_div(self.served);
        interval.map_or(SLOWEST_GUESS, |interval| {
            interval.clamp(FASTEST_GUESS, SLOWEST_GUESS)
        })
    }

    /// How long the present pace can be relied on. Few calls say little about a rate.
    pub(crate) fn trusted_for(&self) -> u64 {
        let calls = self.support.saturating_add(self.served).min(10_000);
        let interval = self.interval().unwrap_or(0);
        interval.saturating_mul(10 * calls * calls)
    }

    /// Somebody wants to go faster.
    pub(crate) const fn limits(&mut self) {
        self.is_limiting = true;
    }

    pub(crate) fn sent(&mut self, now: Nano) -> Version {
        let idle = self.interval().unwrap_or(0).saturating_mul(3).max(IDLE);
        let was_idle = self.under_way == 0 && now > self.last_sent.max(self.resumed) + idle;
        if self.begun.is_none() || was_idle && !self.is_settling() {
            self.begun = Some(now);
            self.from_empty = false;
            self.served = 0;
            self.resumed = now;
        }
        self.last_sent = now;
        self.under_way += 1;
        self.version
    }

    /// A call has ended, and the server has not said that it was one too many.
    pub(crate) fn ended(&mut self, sent: Version, served: u64, now: Nano) {
        self.under_way = self.under_way.saturating_sub(1);
        if served == 0 {
            return;
        }
        match self.phase {
            Phase::Open => {
                self.served += served;
                let most = self.first_calls.max(self.served / SERVED_FOR_ONE);
                self.window = (self.window + 1).min(most);
            }
            Phase::Settling { .. } => self.served += served,
            Phase::Paced { interval } if sent >= self.episode => {
                self.served += served;
                // One that was sent before the last change of pace says nothing of it.
                if sent == self.version {
                    self.grow(interval, now);
                }
            }
            Phase::Paced { .. } => {}
        }
    }

    /// Goes faster: by a quarter with each round while the rate is found, and then by a little, and
    /// more each time that nothing came of it.
    fn grow(&mut self, interval: u64, now: Nano) {
        if !self.is_limiting {
            return;
        }
        let period = interval
            .saturating_mul(50)
            .max(self.pause.saturating_mul(10));
        let percent = if self.is_ramping {
            25
        } else if now.saturating_sub(self.quiet_since) >= period {
            self.quiet_since = now;
            self.quiet_periods += 1;
            (1 << (self.quiet_periods - 1).min(5)).min(25)
        } else {
            return;
        };
        self.is_limiting = false;
        self.version += 1;
        let interval = (interval * 100 / (100 + percent)).max(1);
        self.phase = Phase::Paced { interval };
    }

    /// The server has refused a call, for so long.
    pub(crate) fn refused(&mut self, sent: Version, pause: u64, now: Nano) {
        self.under_way = self.under_way.saturating_sub(1);
        if sent < self.episode {
            return;
        }
        self.version += 1;
        self.episode = self.version;
        let begun = self.begun.unwrap_or(now);
        match self.phase {
            Phase::Open => {
                self.pause = pause;
                self.phase = Phase::Settling { refused: now };
            }
            Phase::Settling { .. } => {}
            Phase::Paced { interval } => {
                let interval = self.slower(interval, now.saturating_sub(begun), now);
                self.pause = pause;
                self.pace(interval, now);
                self.is_ramping = false;
            }
        }
    }

    /// The first pace, once all is known that helps: what was served at once and until now is what
    /// comes back in that time and in the pause.
    pub(crate) fn settle(&mut self) {
        let Phase::Settling { refused } = self.phase else {
            return;
        };
        let elapsed = refused.saturating_sub(self.begun.unwrap_or(refused));
        let served = self.served.max(1);
        self.burst = served;
        self.measured = (elapsed.saturating_add(self.pause) / served).clamp(1, LONGEST);
        self.pace(self.measured + self.measured / 50, refused);
        self.is_ramping = true;
    }

    fn pace(&mut self, interval: u64, now: Nano) {
        self.phase = Phase::Paced {
            interval: interval.clamp(1, LONGEST),
        };
        self.support = self.served;
        self.begun = Some(now);
        self.from_empty = true;
        self.served = 0;
        self.resumed = now.saturating_add(self.pause);
        self.quiet_since = self.resumed;
        self.quiet_periods = 0;
        self.is_limiting = false;
    }

    /// The interval after an episode of so long that was sent at `interval`.
    fn slower(&mut self, interval: u64, elapsed: u64, now: Nano) -> u64 {
        let served = self.served.max(1);
        let beyond = served.checked_sub(self.burst).filter(|cells| *cells > 0);
        let run = now.saturating_sub(self.resumed);
        // The server served at least as fast as each of these, if its rate has not changed.
        let whole = if self.from_empty {
            elapsed / served
        } else {
            LONGEST
        };
        let without_burst = beyond.map_or(LONGEST, |cells| run / cells);
        let least = whole.min(without_burst).clamp(1, LONGEST);
        // Nothing was lost in the pause: there was room for it, or another pace gave the same.
        let had_room = served.saturating_mul(self.pause).saturating_mul(2)
            <= self.burst.saturating_mul(elapsed);
        let agrees = whole.abs_diff(self.measured) <= self.measured / 4;
        let is_exact = self.from_empty && (had_room || agrees);
        self.measured = whole;
        let found = if is_exact {
            least
        } else {
            least.min(interval.saturating_mul(2))
        };
        let found = found.max(interval);
        found + found / 20
    }
}
