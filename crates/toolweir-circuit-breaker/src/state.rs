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
    Outcome, Reason, Rejection, Ticket,
    time::{millis, millis_ceil, saturating_add},
};

use crate::{
    Cause, Circuit, CircuitBreakerConfig, CircuitBreakerState, OnThrottled, ProbeFigures,
    Transition, WindowFigures,
    events::Log,
    probes::Probes,
    window::{Vote, Window},
};

/// The name in rejections and reports.
pub(crate) const LAYER: &str = "circuit-breaker";

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
    /// With an answer or an error.
    Observed(Outcome),
    /// With the refusal of a layer further in: nothing was sent.
    Refused,
    /// With a panic of the inner service.
    Panicked,
    /// The future was dropped.
    Dropped,
}

/// Why a call does not pass.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) retry_after: Option<Duration>,
    cause: Option<Cause>,
    note: Option<Arc<str>>,
}

impl Refusal {
    const fn new(reason: Reason, retry_after: Option<Duration>) -> Self {
        Self {
            reason,
            retry_after,
            cause: None,
            note: None,
        }
    }

    pub(crate) fn into_rejection(self, name: Option<&Arc<str>>) -> Rejection {
        let mut rejection = Rejection::new(LAYER, self.reason);
        if let Some(name) = name {
            rejection = rejection.with_key(name.clone());
        }
        if let Some(note) = &self.note {
            rejection = rejection.with_detail(String::from(&**note));
        } else if let Some(cause) = self.cause {
            rejection = rejection.with_detail(cause.explanation());
        }
        match self.retry_after {
            Some(retry_after) => rejection.with_retry_after(retry_after),
            None => rejection,
        }
    }
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
    rejected_calls: u64,
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
            window: Window::new(config.sliding_window_size),
            failures_in_a_row: 0,
            probes: Probes::new(config.permitted_in_half_open, config.probe_lease),
            generation: 0,
            since: now,
            closed_since: now,
            openings: 0,
            stale_outcomes: 0,
            rejected_calls: 0,
            log: None,
            config,
        }
    }

    /// Lets a new call pass, or refuses it.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Ticket, Refusal> {
        self.advance(now);
        if let Some(refusal) = self.verdict(now) {
            self.rejected_calls += 1;
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

    /// A call dispatched at `dispatched` has ended. `None` where nobody asks how long calls take.
    ///
    /// The clock is read where the time makes a difference. For most calls it makes none, and
    /// reading it would be half of their cost.
    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        end: End,
        dispatched: Option<Instant>,
        clock: impl Fn() -> Instant,
    ) {
        let is_current = ticket.generation == self.generation;
        if is_current && self.is_plainly_closed() && dispatched.is_none() {
            self.settle_closed(end, false, clock);
            return;
        }
        let now = clock();
        self.advance(now);
        if ticket.generation != self.generation {
            if matches!(end, End::Observed(_) | End::Panicked) {
                self.stale_outcomes += 1;
            }
            return;
        }
        let slow = self.is_slow(dispatched, now);
        match self.circuit() {
            Circuit::Closed => self.settle_closed(end, slow, || now),
            Circuit::HalfOpen => {
                if let Some(number) = ticket.probe {
                    self.settle_probe(number, end, slow, now);
                }
            }
            Circuit::ObserveOnly => {
                self.count(end, slow);
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

    /// Whether every call passes and time brings nothing about.
    pub(crate) const fn is_plainly_closed(&self) -> bool {
        self.hold.is_none() && matches!(self.base, Base::Closed)
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
                let note = Some(hold.note.clone());
                let refusal = Refusal::new(Reason::HeldOpen, end.map(after));
                Some(Refusal { note, ..refusal })
            }
            (Some(_), _) | (None, Base::Closed) => None,
            (None, Base::Open { until, .. }) if until <= now => None,
            (
                None,
                Base::Open {
                    until,
                    cause: Cause::Throttled,
                    ..
                },
            ) => Some(Refusal::new(Reason::Throttled, Some(after(until)))),
            (None, Base::Open { until, cause, .. }) => {
                let refusal = Refusal::new(Reason::CircuitOpen, Some(after(until)));
                let cause = Some(cause);
                Some(Refusal { cause, ..refusal })
            }
            (None, Base::HalfOpen { until, .. }) => {
                let free = self.probes.next_free(now)?.min(until);
                Some(Refusal::new(Reason::ProbesOut, Some(after(free))))
            }
        }
    }

    pub(crate) fn snapshot(&mut self, now: Instant) -> CircuitBreakerState {
        self.advance(now);
        let refusal = self.verdict(now);
        let reason = match (&self.hold, self.base) {
            (Some(hold), _) => Some(String::from(&*hold.note)),
            (None, Base::Closed) => None,
            (None, Base::Open { cause, .. } | Base::HalfOpen { cause, .. }) => {
                Some(cause.explanation().to_owned())
            }
        };
        CircuitBreakerState {
            state: self.circuit(),
            since_ms: millis(now.saturating_duration_since(self.since)),
            is_open: refusal.is_some(),
            reason,
            retry_after_ms: refusal.and_then(|r| r.retry_after).map(millis_ceil),
            generation: self.generation,
            window: WindowFigures {
                calls: self.window.calls(),
                failures: self.window.failures(),
                slow_calls: self.window.slow_calls(),
                consecutive_failures: self.failures_in_a_row,
            },
            probes: ProbeFigures {
                out: self.probes.out(now),
                successes: self.probes.successes(),
            },
            openings: self.openings,
            stale_outcomes: self.stale_outcomes,
            rejected_calls: self.rejected_calls,
        }
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
    fn is_slow(&self, dispatched: Option<Instant>, now: Instant) -> bool {
        match (self.config.slow_calls, dispatched) {
            (Some(slow), Some(at)) => now.saturating_duration_since(at) >= slow.duration,
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

    fn settle_closed(&mut self, end: End, slow: bool, clock: impl Fn() -> Instant) {
        if let End::Observed(Outcome::Throttled { retry_after }) = end {
            self.pause(clock(), retry_after, Then::Closed);
            return;
        }
        if !self.count(end, slow) {
            return;
        }
        if self.openings > 0 && end == End::Observed(Outcome::Success) {
            let sustained = saturating_add(self.closed_since, self.config.max_wait_in_open);
            if sustained <= clock() {
                self.openings = 0;
            }
        }
        if let Some(cause) = self.trip() {
            self.open(clock(), cause);
        }
    }

    fn settle_probe(&mut self, number: u64, end: End, slow: bool, now: Instant) {
        self.probes.free(number);
        if end == End::Dropped && !slow {
            return;
        }
        self.probes.answered();
        match end {
            End::Observed(Outcome::Success) => {
                self.probes.succeeded(slow);
                if self.probes.successes() >= self.config.success_threshold {
                    self.judge_probes(now);
                }
            }
            End::Observed(Outcome::Throttled { retry_after }) => {
                self.pause(now, retry_after, Then::HalfOpenAgain);
            }
            End::Observed(Outcome::Failure) | End::Panicked | End::Dropped => {
                self.open(now, Cause::ProbeFailed);
            }
            End::Observed(_) | End::Refused => {}
        }
    }

    /// Puts what a call says into the window, and tells whether it says anything.
    fn count(&mut self, end: End, slow: bool) -> bool {
        let failure = match end {
            End::Observed(Outcome::Success) => {
                self.failures_in_a_row = 0;
                false
            }
            End::Observed(Outcome::Failure) | End::Panicked => {
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                true
            }
            // Nobody knows how it would have ended, but that it was slow is known.
            End::Dropped if slow => false,
            End::Observed(_) | End::Refused | End::Dropped => return false,
        };
        self.window.push(Vote { failure, slow });
        true
    }

    /// Why the circuit must open now, if it must.
    fn trip(&self) -> Option<Cause> {
        let config = &self.config;
        let in_a_row = config.consecutive_failures;
        if in_a_row.is_some_and(|limit| self.failures_in_a_row >= limit) {
            return Some(Cause::ConsecutiveFailures);
        }
        let calls = self.window.calls();
        if calls < config.minimum_number_of_calls {
            return None;
        }
        let reaches = |part: usize, percent: u8| part * 100 >= calls * usize::from(percent);
        if reaches(self.window.failures(), config.failure_rate_threshold) {
            return Some(Cause::FailureRate);
        }
        let slow_rate = config.slow_calls.map(|slow| slow.rate);
        slow_rate
            .filter(|rate| reaches(self.window.slow_calls(), *rate))
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
    fn pause(&mut self, at: Instant, retry_after: Option<Duration>, then: Then) {
        if self.config.on_throttled == OnThrottled::Ignore {
            return;
        }
        let wait = retry_after.unwrap_or(self.config.default_retry_after);
        let wait = wait.min(self.config.max_retry_after);
        if wait.is_zero() {
            return;
        }
        let until = saturating_add(at, wait.saturating_add(self.jitter(wait)));
        let cause = Cause::Throttled;
        self.change(at, cause, |machine| {
            machine.base = Base::Open { until, cause, then };
        });
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
