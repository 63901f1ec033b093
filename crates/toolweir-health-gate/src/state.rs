//! What is known of the server's health: the state machine. It takes the time and never waits.

use std::{borrow::Cow, time::Duration};

use tokio::time::Instant;
use toolweir_core::{
    Health, HealthReport, Outcome, Reason, Rejection,
    time::{millis, millis_ceil, saturating_add},
};

use crate::{HealthGateConfig, HealthGateState, UnknownPolicy};

/// The layer's name in its rejections.
pub(crate) const LAYER: &str = "health-gate";

/// The shortest time after which somebody is told to look again.
const MOMENT: Duration = Duration::from_millis(250);

/// The longest time that a refusal on the way may put a probe off.
const LONGEST_REST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Machine {
    config: HealthGateConfig,
    health: Health,
    /// Results of calls and probes that began in an earlier one change nothing. A new one begins
    /// where the gate closes or opens, or somebody sets the state.
    generation: u16,
    /// In a row.
    failures: u32,
    /// In a row, of probes while the server is unhealthy.
    successes: u32,
    /// When a probe is due. `None`: at once.
    due_at: Option<Instant>,
    in_flight: Option<InFlight>,
    probes: u64,
    known_since: Option<Instant>,
    latency: Option<Duration>,
    error: Option<Failure>,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    since: Instant,
    generation: u16,
}

/// Why the server is taken to be unwell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) text: Cow<'static, str>,
    /// A stable word.
    pub(crate) kind: &'static str,
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Landed {
    Well {
        latency: Duration,
    },
    Failed {
        latency: Duration,
        failure: Failure,
    },
    /// A layer on the way refused it. That says nothing about the server.
    Refused {
        retry_after: Option<Duration>,
    },
    /// The server was stopped because nobody called it, and was left so.
    Dormant,
}

/// What is to be done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) gate: Gate,
    /// Whether a probe is due.
    pub(crate) start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Closed(Reason),
}

impl Machine {
    pub(crate) const fn new(config: HealthGateConfig) -> Self {
        Self {
            config,
            health: Health::Unknown,
            generation: 0,
            failures: 0,
            successes: 0,
            due_at: None,
            in_flight: None,
            probes: 0,
            known_since: None,
            latency: None,
            error: None,
        }
    }

    pub(crate) const fn generation(&self) -> u16 {
        self.generation
    }

    pub(crate) const fn health(&self) -> Health {
        self.health
    }

    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        Verdict {
            gate: self.gate(),
            start: self.in_flight(now).is_none() && self.is_due(now),
        }
    }

    const fn gate(&self) -> Gate {
        match (self.health, self.config.unknown) {
            (Health::Unhealthy, _) => Gate::Closed(Reason::Unhealthy),
            (Health::Unknown, UnknownPolicy::Refuse) => Gate::Closed(Reason::HealthUnknown),
            _ => Gate::Open,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.health != Health::Dormant && self.due_at.is_none_or(|due_at| now >= due_at)
    }

    /// The number of the probe in flight.
    ///
    /// One that is long past its time is in a runtime that nobody drives. It must not close the gate
    /// for good.
    pub(crate) fn in_flight(&self, now: Instant) -> Option<u64> {
        let probe = self.in_flight?;
        let lost_at = saturating_add(probe.since, self.config.timeout.saturating_mul(2));
        (now < lost_at).then_some(self.probes)
    }

    /// Begins a probe and returns its number.
    pub(crate) fn begin(&mut self, now: Instant) -> u64 {
        self.probes += 1;
        self.in_flight = Some(InFlight {
            since: now,
            generation: self.generation,
        });
        self.probes
    }

    /// The probe is over.
    pub(crate) fn land(&mut self, number: u64, landed: Landed, now: Instant) {
        if number != self.probes {
            return;
        }
        let Some(probe) = self.in_flight.take() else {
            return;
        };
        if probe.generation != self.generation {
            return;
        }
        match landed {
            Landed::Well { latency } => {
                self.latency = Some(latency);
                self.succeed(now);
            }
            Landed::Failed { latency, failure } => {
                self.latency = Some(latency);
                self.fail(failure, now);
            }
            Landed::Refused { retry_after } => {
                let rest = retry_after.unwrap_or(self.config.period);
                let rest = rest.clamp(Duration::from_millis(1), LONGEST_REST);
                self.due_at = Some(saturating_add(now, rest));
            }
            Landed::Dormant => self.fall_asleep(),
        }
    }

    /// The server was found to be stopped. A call that comes to wake it counts, unless the gate opens
    /// with this.
    fn fall_asleep(&mut self) {
        if self.gate() != Gate::Open {
            self.generation = self.generation.wrapping_add(1);
        }
        self.enter(Health::Dormant);
        self.failures = 0;
        self.due_at = None;
        self.known_since = None;
        self.latency = None;
    }

    /// A call that was let through in this generation is over.
    pub(crate) fn observe(&mut self, generation: u16, outcome: Outcome, now: Instant) {
        if generation != self.generation {
            return;
        }
        match outcome {
            Outcome::Success => self.succeed(now),
            Outcome::Failure => self.fail(
                Failure {
                    text: "a call failed".into(),
                    kind: "call-failed",
                },
                now,
            ),
            _ => {}
        }
    }

    fn succeed(&mut self, now: Instant) {
        self.learn(now);
        self.failures = 0;
        match self.health {
            Health::Healthy => self.error = None,
            Health::Unhealthy => {
                self.successes += 1;
                if self.successes >= self.config.success_threshold {
                    self.enter(Health::Healthy);
                    self.generation = self.generation.wrapping_add(1);
                }
            }
            _ => self.enter(Health::Healthy),
        }
    }

    fn fail(&mut self, failure: Failure, now: Instant) {
        self.learn(now);
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.error = Some(failure);
        if self.health == Health::Unhealthy {
            return;
        }
        if self.failures >= self.config.failure_threshold {
            self.health = Health::Unhealthy;
            self.generation = self.generation.wrapping_add(1);
        } else if self.health == Health::Dormant {
            self.health = Health::Unknown;
        }
    }

    fn learn(&mut self, now: Instant) {
        self.known_since = Some(now);
        self.due_at = Some(saturating_add(now, self.config.period));
    }

    fn enter(&mut self, health: Health) {
        self.health = health;
        self.successes = 0;
        self.error = None;
    }

    /// Somebody sets the state: what is under way does not count.
    pub(crate) fn set(&mut self, health: Health) {
        self.enter(health);
        self.generation = self.generation.wrapping_add(1);
        self.failures = 0;
        self.due_at = None;
        self.known_since = None;
        self.latency = None;
    }

    /// Until when every call passes, starts nothing, and may succeed without a trace.
    pub(crate) fn quiet_until(&self, now: Instant) -> Instant {
        if self.health != Health::Healthy || self.failures > 0 {
            return now;
        }
        match self.in_flight {
            // Its end is told in any case. This is for one that ends without an end.
            Some(probe) => saturating_add(probe.since, self.config.timeout),
            None => self.due_at.unwrap_or(now),
        }
    }

    /// How long until the next probe, or its result, is due.
    fn come_back(&self, now: Instant) -> Duration {
        match (self.in_flight, self.due_at) {
            (Some(probe), _) => {
                // Nobody knows how long it takes: as long again as it has taken.
                let elapsed = now.saturating_duration_since(probe.since);
                let left = self.config.timeout.saturating_sub(elapsed);
                elapsed.clamp(MOMENT, left.max(MOMENT))
            }
            (None, Some(due_at)) if now < due_at => due_at - now,
            _ => MOMENT,
        }
    }

    pub(crate) fn rejection(&self, reason: Reason, now: Instant) -> Rejection {
        let rejection = Rejection::new(LAYER, reason).with_retry_after(self.come_back(now));
        match &self.error {
            Some(failure) => rejection.with_detail(failure.text.clone()),
            None => rejection,
        }
    }

    pub(crate) fn report(&self, now: Instant) -> HealthReport {
        let state = self.snapshot(now);
        let mut report = HealthReport::new(state.health, state.is_open);
        report.latency_ms = state.latency_ms;
        report.error = state.error;
        report.error_type = state.error_type;
        report.age_ms = state.age_ms;
        report.retry_after_ms = state.probe_due_in_ms;
        report
    }

    pub(crate) fn snapshot(&self, now: Instant) -> HealthGateState {
        let error = self.error.as_ref();
        HealthGateState {
            health: self.health,
            is_open: self.gate() == Gate::Open,
            failures: self.failures,
            successes: self.successes,
            is_probing: self.in_flight.is_some(),
            probes: self.probes,
            latency_ms: self.latency.map(millis),
            error: error.map(|failure| failure.text.to_string()),
            error_type: error.map(|failure| failure.kind.to_owned()),
            age_ms: self
                .known_since
                .map(|since| millis(now.saturating_duration_since(since))),
            probe_due_in_ms: (self.health != Health::Dormant).then(|| {
                let due_at = self.due_at.unwrap_or(now);
                millis_ceil(due_at.saturating_duration_since(now))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::new(HealthGateConfig::default())
    }

    fn well() -> Landed {
        Landed::Well {
            latency: Duration::ZERO,
        }
    }

    #[test]
    fn a_probe_that_was_given_up_says_nothing_any_more() {
        let now = Instant::now();
        let mut machine = machine();
        let lost = machine.begin(now);
        let later = now + 2 * machine.config.timeout;
        assert!(machine.verdict(later).start);
        let newest = machine.begin(later);
        machine.land(lost, well(), later);
        assert_eq!(machine.in_flight(later), Some(newest));
        assert_eq!(machine.health(), Health::Unknown);
        machine.land(newest, well(), later);
        assert_eq!(machine.health(), Health::Healthy);
    }

    #[test]
    fn no_refusal_on_the_way_puts_probes_off_for_good_or_for_no_time() {
        let now = Instant::now();
        for (asked, rest) in [
            (Some(Duration::MAX), LONGEST_REST),
            (Some(Duration::ZERO), Duration::from_millis(1)),
            (None, HealthGateConfig::default().period),
        ] {
            let mut machine = machine();
            let number = machine.begin(now);
            let retry_after = asked;
            machine.land(number, Landed::Refused { retry_after }, now);
            assert_eq!(machine.come_back(now), rest);
            assert!(machine.verdict(now + rest).start);
        }
    }

    #[test]
    fn where_it_is_quiet_a_call_passes_and_starts_nothing() {
        let now = Instant::now();
        let mut machine = machine();
        assert_eq!(machine.quiet_until(now), now);
        machine.observe(0, Outcome::Success, now);
        let until = machine.quiet_until(now);
        let open = Verdict {
            gate: Gate::Open,
            start: false,
        };
        assert_eq!(machine.verdict(until - Duration::from_millis(1)), open);
        assert!(machine.verdict(until).start);
        machine.observe(0, Outcome::Failure, now);
        assert_eq!(machine.quiet_until(now), now);
    }
}
