//! The state machine. It is pure: it takes the time with each step, waits for nothing and locks
//! nothing.
//!
//! Under everything lies the `base`: closed, open or half-open. An operator's `hold` covers it.
//! Each change of what is on top begins a new generation. A call carries the generation in which
//! it was admitted, and one of an earlier generation changes nothing.
//!
//! What time alone brings about happens in [`Machine::advance`], with which each step begins. It
//! makes a bounded number of changes however much time has passed, since half-open is entered by
//! a call and never by time.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{
    Delivery, Observation, Outcome, Reason, Ticket,
    time::{millis, millis_ceil, saturating_add},
};

use crate::{
    Cause, Circuit, CircuitBreakerConfig, CircuitBreakerState, OnThrottled, ProbeFigures,
    Transition, WindowFigures,
    events::Log,
    probes::Probes,
    refusal::Refusal,
    window::{Vote, Window},
};

#[derive(Debug, Clone, Copy)]
enum Base {
    Closed,
    Open {
        until: Instant,
        /// What brought it about.
        cause: Cause,
        then: Then,
    },
    HalfOpen {
        /// When the stay ends without a verdict.
        until: Instant,
        /// Why the circuit was open before.
        cause: Cause,
    },
}

/// What comes after an open period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// By itself: a pause of a closed circuit.
    Closed,
    /// With the next call: the normal case.
    HalfOpen,
    /// With the next call, and with the successes so far: a pause of a half-open circuit.
    HalfOpenAgain,
}

#[derive(Debug)]
struct Hold {
    circuit: Circuit,
    note: Arc<str>,
    until: Option<Instant>,
}

/// How a dispatched call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The server did its work.
    Success,
    /// The server, or the way to it, is at fault.
    Failure,
    /// The server asks for fewer calls.
    Throttled,
    /// The server executed the call, and answered that it was its caller's mistake or a business
    /// error.
    Answered,
    /// With what says nothing about the server.
    Meaningless,
    /// With the refusal of a layer further in: nothing was sent.
    Refused,
    /// With a panic of the inner service.
    Panicked,
    /// The future was dropped.
    Dropped,
}

impl End {
    /// How a call with this observation ended. `None`: a layer further in refused it.
    #[inline]
    pub(crate) const fn of(observation: Option<Observation>) -> Self {
        let Some(seen) = observation else {
            return Self::Refused;
        };
        match (seen.outcome, seen.delivery) {
            (Outcome::Success, _) => Self::Success,
            (Outcome::Failure, _) => Self::Failure,
            (Outcome::Throttled { .. }, _) => Self::Throttled,
            (Outcome::Ignored, Delivery::Executed) => Self::Answered,
            _ => Self::Meaningless,
        }
    }

    const fn is_failure(self) -> bool {
        matches!(self, Self::Failure | Self::Panicked)
    }

    /// Whether something of the server's was seen.
    const fn is_observed(self) -> bool {
        !matches!(self, Self::Refused | Self::Dropped)
    }
}

/// What can be told of a circuit without asking the machine, until its next transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every call passes, and time brings nothing about.
    Closed,
    /// Every call is refused until then.
    Open { until: Instant, cause: Cause },
    /// Neither.
    Other,
}

#[derive(Debug)]
pub(crate) struct Machine {
    config: Arc<CircuitBreakerConfig>,
    rng: fastrand::Rng,
    base: Base,
    hold: Option<Hold>,
    window: Window,
    failures_in_a_row: u32,
    probes: Probes,
    generation: u64,
    /// When the last transition was.
    since: Instant,
    /// When the base was last closed by its probes or by an operator; a pause does not move it.
    closed_since: Instant,
    /// How many times the circuit has opened since the last sustained success.
    openings: u32,
    stale_outcomes: u64,
    /// What the last counted failure said.
    last_error: Option<Arc<str>>,
    /// Until when the server asked for a pause that is left to a rate limit.
    pause_left_to_others: Option<Instant>,
    /// Kept while somebody listens.
    log: Option<Log>,
}

// Steps.
impl Machine {
    /// A closed circuit. `seed` is for the jitter.
    pub(crate) fn new(config: Arc<CircuitBreakerConfig>, seed: u64, now: Instant) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            base: Base::Closed,
            hold: None,
            window: Window::new(config.sliding_window, now),
            failures_in_a_row: 0,
            probes: Probes::new(config.permitted_in_half_open, config.probe_lease),
            generation: 0,
            since: now,
            closed_since: now,
            openings: 0,
            stale_outcomes: 0,
            last_error: None,
            pause_left_to_others: None,
            log: None,
            config,
        }
    }

    /// Lets a new call pass, or refuses it.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Ticket, Refusal> {
        self.advance(now);
        if let Some(refusal) = self.verdict(now) {
            return Err(refusal);
        }
        if self.circuit() == Circuit::Open {
            self.begin_half_open(now);
        }
        let probe = match self.circuit() {
            // The verdict has seen a free slot.
            Circuit::HalfOpen => self.probes.take(now),
            _ => None,
        };
        Ok(Ticket {
            generation: self.generation,
            probe,
        })
    }

    /// Dispatches an admitted call. One whose ticket is no longer good is admitted anew, which may
    /// refuse it.
    pub(crate) fn dispatch(&mut self, ticket: Ticket, now: Instant) -> Result<Ticket, Refusal> {
        self.advance(now);
        if self.is_good(ticket, now) {
            return Ok(ticket);
        }
        let ticket = self.admit(now)?;
        // A ticket just given is good; asking starts the probe's lease.
        self.is_good(ticket, now);
        Ok(ticket)
    }

    /// Dispatches a call that was never admitted here. It is counted like any other, save in
    /// half-open, where only probes are.
    pub(crate) fn dispatch_unadmitted(&mut self, now: Instant) -> Ticket {
        self.advance(now);
        Ticket {
            generation: self.generation,
            probe: None,
        }
    }

    /// An admitted call was never dispatched.
    pub(crate) fn give_back(&mut self, ticket: Ticket) {
        if let Some(number) = ticket.probe {
            self.probes.free(number);
        }
    }

    /// A call dispatched at `dispatched` has ended; no time where nobody asks how long calls take.
    /// A server that throttles may have asked for a time, and a failure may have said something.
    ///
    /// The clock is read where the time makes a difference. For most calls it makes none, and
    /// reading it would be half of their cost.
    pub(crate) fn settle(
        &mut self,
        ticket: &Ticket,
        (end, asked): (End, Option<Duration>),
        dispatched: Option<Instant>,
        error: Option<Arc<str>>,
        clock: impl Fn() -> Instant,
    ) {
        if ticket.generation == self.generation && self.mode() == Mode::Closed {
            let slow = self.is_slow(dispatched, &clock);
            self.settle_closed((end, asked), slow, error, clock);
            return;
        }
        let now = clock();
        self.advance(now);
        if ticket.generation != self.generation {
            if end.is_observed() {
                self.stale_outcomes += 1;
            }
            return;
        }
        let slow = self.is_slow(dispatched, || now);
        match self.circuit() {
            Circuit::Closed => self.settle_closed((end, asked), slow, error, || now),
            Circuit::HalfOpen => {
                if let Some(number) = ticket.probe {
                    self.settle_probe(number, (end, asked), slow, error, now);
                }
            }
            Circuit::ObserveOnly => {
                if end == End::Throttled {
                    self.note_pause(now, self.pause_for(asked));
                }
                self.count(end, slow, error, || now);
            }
            // Nothing is dispatched while open, save calls that were never admitted.
            Circuit::Open | Circuit::HeldOpen | Circuit::HeldClosed => {}
        }
    }

    /// Covers the circuit with an operator's hold, in the place of an earlier one.
    pub(crate) fn hold(
        &mut self,
        circuit: Circuit,
        note: Arc<str>,
        duration: Option<Duration>,
        now: Instant,
    ) {
        self.advance(now);
        let until = duration.map(|duration| saturating_add(now, duration));
        self.change(now, Cause::Held, |machine| {
            if let Base::HalfOpen { cause, .. } = machine.base {
                // The probes' answers will be stale, so probing starts afresh after the hold.
                let then = Then::HalfOpen;
                machine.base = Base::Open {
                    until: now,
                    cause,
                    then,
                };
            }
            machine.hold = Some(Hold {
                circuit,
                note,
                until,
            });
        });
    }

    /// Ends a hold. What lay under it goes on, and time has not stood still for it.
    pub(crate) fn release(&mut self, now: Instant) {
        self.advance(now);
        if self.hold.is_some() {
            self.change(now, Cause::Released, |machine| machine.hold = None);
        }
    }

    /// Closes the circuit and forgets what was counted. A hold stays.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.advance(now);
        self.openings = 0;
        self.pause_left_to_others = None;
        self.close(now, Cause::Reset);
    }

    /// Does what time alone brings about.
    pub(crate) fn advance(&mut self, now: Instant) {
        if let Some(hold) = &self.hold {
            match hold.until {
                Some(end) if end <= now => {
                    self.change(end, Cause::HoldOver, |machine| machine.hold = None);
                }
                _ => return,
            }
        }
        match self.base {
            Base::Open {
                until,
                then: Then::Closed,
                ..
            } if until <= now => {
                self.change(until, Cause::PauseOver, |machine| {
                    machine.base = Base::Closed;
                });
            }
            Base::HalfOpen { until, .. } if until <= now => self.end_stay(until),
            _ => {}
        }
    }
}

// Reading.
impl Machine {
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) const fn mode(&self) -> Mode {
        match (&self.hold, self.base) {
            (None, Base::Closed) => Mode::Closed,
            (None, Base::Open { until, cause, .. }) => Mode::Open { until, cause },
            _ => Mode::Other,
        }
    }

    pub(crate) const fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    fn circuit(&self) -> Circuit {
        match (&self.hold, self.base) {
            (Some(hold), _) => hold.circuit,
            (None, Base::Closed) => Circuit::Closed,
            (None, Base::Open { .. }) => Circuit::Open,
            (None, Base::HalfOpen { .. }) => Circuit::HalfOpen,
        }
    }

    /// Why a call made now would not pass. To be asked after `advance`.
    pub(crate) fn verdict(&self, now: Instant) -> Option<Refusal> {
        let after = |end: Instant| end.saturating_duration_since(now);
        match (&self.hold, self.base) {
            (Some(hold), base) if hold.circuit == Circuit::HeldOpen => {
                // What lies under the hold may be open for longer than it.
                let end = hold.until.map(|end| match base {
                    Base::Open { until, .. } => end.max(until),
                    _ => end,
                });
                Some(Refusal {
                    note: Some(hold.note.clone()),
                    ..Refusal::new(Reason::HeldOpen, end.map(after))
                })
            }
            (Some(_), _) | (None, Base::Closed) => None,
            (None, Base::Open { until, .. }) if until <= now => None,
            (None, Base::Open { until, cause, .. }) => Some(Refusal::open(cause, after(until))),
            (None, Base::HalfOpen { until, .. }) => {
                let free = self.probes.next_free(now)?.min(until);
                Some(Refusal::new(Reason::ProbesOut, Some(after(free))))
            }
        }
    }

    pub(crate) fn snapshot(&mut self, now: Instant) -> CircuitBreakerState {
        self.advance(now);
        if self.is_counting() {
            self.window.slide(now);
        }
        let refusal = self.verdict(now);
        let totals = self.window.totals();
        CircuitBreakerState {
            state: self.circuit(),
            since_ms: millis(now.saturating_duration_since(self.since)),
            is_open: refusal.is_some(),
            reason: self.reason(),
            last_error: self.last_error.as_deref().map(str::to_owned),
            retry_after_ms: refusal.and_then(|r| r.retry_after).map(millis_ceil),
            pause_left_ms: self.pause_left(now).map(millis_ceil),
            generation: self.generation,
            window: WindowFigures {
                calls: totals.calls,
                failures: totals.failures,
                slow_calls: totals.slow_calls,
                consecutive_failures: self.failures_in_a_row,
            },
            probes: ProbeFigures {
                out: self.probes.out(now),
                successes: self.probes.successes(),
            },
            openings: self.openings,
            stale_outcomes: self.stale_outcomes,
            // Whoever refuses without asking the machine counts.
            rejected_calls: 0,
        }
    }

    /// Why the circuit is not closed, in words.
    fn reason(&self) -> Option<String> {
        let cause = match (&self.hold, self.base) {
            (Some(hold), _) => return Some(String::from(&*hold.note)),
            (None, Base::Closed) => return None,
            (None, Base::Open { cause, .. } | Base::HalfOpen { cause, .. }) => cause,
        };
        let explanation = cause.explanation();
        match &self.last_error {
            Some(error) if cause.is_failure() => Some(format!("{explanation}: {error}")),
            _ => Some(explanation.to_owned()),
        }
    }

    /// Whether calls go into the window. While they do not, it stays what it was.
    fn is_counting(&self) -> bool {
        matches!(self.base, Base::Closed) || self.circuit() == Circuit::ObserveOnly
    }

    /// How much is left of a pause that is not this circuit's to keep.
    pub(crate) fn pause_left(&self, now: Instant) -> Option<Duration> {
        let left = self.pause_left_to_others?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Keeps a log of transitions from now on.
    pub(crate) fn listen(&mut self) {
        self.log.get_or_insert_default();
    }

    pub(crate) fn stop_listening(&mut self) {
        self.log = None;
    }

    pub(crate) fn transition_after(&self, generation: u64) -> Option<Transition> {
        self.log.as_ref()?.after(generation)
    }
}

// What a call's end means.
impl Machine {
    fn is_slow(&self, dispatched: Option<Instant>, clock: impl Fn() -> Instant) -> bool {
        match (self.config.slow_calls, dispatched) {
            (Some(slow), Some(at)) => clock().saturating_duration_since(at) >= slow.duration,
            _ => false,
        }
    }

    /// Whether a ticket still lets its call pass. Asking starts a probe's lease anew.
    fn is_good(&mut self, ticket: Ticket, now: Instant) -> bool {
        ticket.generation == self.generation
            && ticket
                .probe
                .is_none_or(|number| self.probes.dispatch(number, now))
    }

    fn settle_closed(
        &mut self,
        (end, asked): (End, Option<Duration>),
        slow: bool,
        error: Option<Arc<str>>,
        clock: impl Fn() -> Instant,
    ) {
        if end == End::Throttled {
            self.pause(clock(), asked, Then::Closed);
            return;
        }
        if !self.count(end, slow, error, &clock) {
            return;
        }
        if self.openings > 0 && end == End::Success {
            let sustained = saturating_add(self.closed_since, self.config.max_wait_in_open);
            if sustained <= clock() {
                self.openings = 0;
            }
        }
        if let Some(cause) = self.trip() {
            self.open(clock(), cause);
        }
    }

    fn settle_probe(
        &mut self,
        number: u64,
        (end, asked): (End, Option<Duration>),
        slow: bool,
        error: Option<Arc<str>>,
        now: Instant,
    ) {
        self.probes.free(number);
        if end == End::Dropped && !slow {
            return;
        }
        self.probes.answered();
        match end {
            End::Throttled => self.pause(now, asked, Then::HalfOpenAgain),
            // A probe that was dropped in time is settled already: this one was slow.
            End::Failure | End::Panicked | End::Dropped => {
                self.last_error = error;
                self.open(now, Cause::ProbeFailed);
            }
            End::Success | End::Answered => {
                self.probes.succeeded(slow);
                if self.probes.successes() >= self.config.success_threshold {
                    self.judge_probes(now);
                }
            }
            End::Meaningless | End::Refused => {}
        }
    }

    /// Puts what a call says into the window, and tells whether it says anything.
    fn count(
        &mut self,
        end: End,
        slow: bool,
        error: Option<Arc<str>>,
        clock: impl Fn() -> Instant,
    ) -> bool {
        let failure = end.is_failure();
        if failure {
            self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
            self.last_error = error;
        } else if end == End::Success {
            self.failures_in_a_row = 0;
        } else if !(end == End::Dropped && slow) {
            // Of a call dropped when it was slow, nobody knows how it would have ended, but that
            // it was slow is known.
            return false;
        }
        self.window.push(Vote { failure, slow }, clock);
        true
    }

    /// Why the circuit must open now, if it must.
    fn trip(&self) -> Option<Cause> {
        let config = &self.config;
        let in_a_row = config.consecutive_failures;
        if in_a_row.is_some_and(|limit| self.failures_in_a_row >= limit) {
            return Some(Cause::ConsecutiveFailures);
        }
        let totals = self.window.totals();
        if totals.calls < config.minimum_number_of_calls as u64 {
            return None;
        }
        let reaches = |part: u64, percent: u8| part * 100 >= totals.calls * u64::from(percent);
        if reaches(totals.failures, config.failure_rate_threshold) {
            return Some(Cause::FailureRate);
        }
        let slow_rate = config.slow_calls.map(|slow| slow.rate);
        slow_rate
            .filter(|rate| reaches(totals.slow_calls, *rate))
            .map(|_| Cause::SlowCallRate)
    }

    /// Closes or opens, all probes so far having succeeded.
    fn judge_probes(&mut self, at: Instant) {
        let (successes, slow) = (self.probes.successes(), self.probes.slow_successes());
        let too_slow = self.config.slow_calls.is_some_and(|config| {
            u64::from(slow) * 100 >= u64::from(successes) * u64::from(config.rate)
        });
        if too_slow {
            self.open(at, Cause::SlowCallRate);
        } else {
            self.close(at, Cause::ProbesSucceeded);
        }
    }

    /// The longest stay in half-open is over. Where every probe was answered, and one with a
    /// success, too few calls came to ask for more; where one was not, it counts as failed.
    fn end_stay(&mut self, at: Instant) {
        if self.probes.unanswered() > 0 {
            self.open(at, Cause::HalfOpenTimedOut);
        } else if self.probes.successes() > 0 {
            self.judge_probes(at);
        } else {
            self.open_for_a_period(at, Cause::HalfOpenTimedOut);
        }
    }
}

// Transitions.
impl Machine {
    /// Every transition goes through here.
    fn change(&mut self, at: Instant, cause: Cause, apply: impl FnOnce(&mut Self)) {
        let from = self.circuit();
        apply(self);
        self.probes.recall();
        self.generation += 1;
        // What time brought about under a hold shows when the hold ends.
        self.since = self.since.max(at);
        let to = self.circuit();
        let generation = self.generation;
        if let Some(log) = &mut self.log {
            log.push(Transition {
                generation,
                from,
                to,
                cause,
            });
        }
    }

    fn close(&mut self, at: Instant, cause: Cause) {
        self.change(at, cause, |machine| {
            machine.base = Base::Closed;
            machine.window.clear();
            machine.failures_in_a_row = 0;
            machine.last_error = None;
            machine.closed_since = at;
        });
    }

    /// Opens after a failure: for longer than the last time.
    fn open(&mut self, at: Instant, cause: Cause) {
        self.openings = self.openings.saturating_add(1);
        self.open_for_a_period(at, cause);
    }

    fn open_for_a_period(&mut self, at: Instant, cause: Cause) {
        let doublings = self.openings.saturating_sub(1);
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let period = self.config.wait_in_open.saturating_mul(factor);
        let period = period.min(self.config.max_wait_in_open);
        let until = saturating_add(at, period.saturating_sub(self.jitter(period)));
        let then = Then::HalfOpen;
        self.change(at, cause, |machine| {
            machine.base = Base::Open { until, cause, then };
        });
    }

    /// Opens until the server's own retry-after. It is no vote against the server's health.
    fn pause(&mut self, at: Instant, asked: Option<Duration>, then: Then) {
        let wait = self.pause_for(asked);
        if self.config.on_throttled == OnThrottled::Ignore {
            self.note_pause(at, wait);
            return;
        }
        if wait.is_zero() {
            return;
        }
        let until = saturating_add(at, wait.saturating_add(self.jitter(wait)));
        let cause = Cause::Throttled;
        self.change(at, cause, |machine| {
            machine.base = Base::Open { until, cause, then };
        });
    }

    /// How long a throttled answer pauses.
    fn pause_for(&self, asked: Option<Duration>) -> Duration {
        asked
            .unwrap_or(self.config.default_retry_after)
            .min(self.config.max_retry_after)
    }

    /// Remembers a pause for those who ask, where it is not this circuit's to keep.
    fn note_pause(&mut self, at: Instant, wait: Duration) {
        let until = saturating_add(at, wait);
        self.pause_left_to_others = self.pause_left_to_others.max(Some(until));
    }

    fn begin_half_open(&mut self, now: Instant) {
        let Base::Open { cause, then, .. } = self.base else {
            return;
        };
        let until = saturating_add(now, self.config.max_wait_in_half_open);
        self.change(now, Cause::OpenPeriodOver, |machine| {
            machine.base = Base::HalfOpen { until, cause };
            if then == Then::HalfOpen {
                machine.probes.start_afresh();
            }
        });
    }

    /// A random share of `duration`, up to the configured one.
    fn jitter(&mut self, duration: Duration) -> Duration {
        let share = self.rng.f64() * f64::from(self.config.jitter) / 100.0;
        duration.mul_f64(share)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{prelude::*, test_runner::RngAlgorithm};

    /// Properties of what is pure: many cases of little work.
    pub(crate) fn quick(cases: u32) -> ProptestConfig {
        ProptestConfig {
            cases,
            // In a debug build the default generator would take most of the time.
            rng_algorithm: RngAlgorithm::XorShift,
            ..ProptestConfig::default()
        }
    }
}
