//! What is known of the token, and what is done about it: the state machine. It takes the time and
//! never waits.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{
    Reason, Rejection,
    time::{millis, millis_ceil, saturating_add},
};

use crate::{TokenFreshnessConfig, TokenFreshnessState, TokenLife, TokenStatus};

/// The layer's name in its rejections.
pub(crate) const LAYER: &str = "token-freshness";

/// The shortest time after which somebody is told to look again.
const MOMENT: Duration = Duration::from_millis(250);

/// The longest time that an authorisation server, or a layer on the way to it, may ask for.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// Longer than any token lives.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug)]
pub(crate) struct Machine {
    config: TokenFreshnessConfig,
    token: Token,
    /// Counts tokens. A call that went out with an older one says nothing about this one.
    generation: u16,
    refresher: Refresher,
    /// How many times the source was asked.
    asked: u64,
    failures: u32,
    last_error: Option<Arc<str>>,
    /// What somebody has to do, once the grant is rejected.
    recovery: Option<Arc<str>>,
    /// The whole life of the newest token that was seen from its beginning.
    whole_life: Option<Duration>,
    /// How many tokens in a row the server did not accept.
    unaccepted: u32,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Unknown,
    /// The server does not accept it, or the source says that it has expired.
    Bad,
    Held(Held),
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    /// Whether this is its whole life, or what was left of it.
    whole: bool,
    /// `None`: it does not expire.
    life: Option<Life>,
}

/// The times of a token that expires, in their order.
#[derive(Debug, Clone, Copy)]
struct Life {
    duration: Duration,
    /// From here on it is refreshed behind the calls: the advisory window.
    refresh_at: Instant,
    /// From here on calls wait for the refresh: the mandatory window.
    mandatory_at: Instant,
    expires_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresher {
    Idle,
    InFlight {
        since: Instant,
        errand: Errand,
        /// The state has been set from outside meanwhile: a failure is of no interest any more.
        overtaken: bool,
    },
    /// Nothing is tried after a failure.
    Resting {
        until: Instant,
    },
    /// The grant was rejected, and nothing is tried until somebody acts.
    Rejected,
}

/// What the source is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    Current,
    Refresh,
}

/// What a call asks of the token.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Demand {
    /// How long it must still be valid. Unlike the configured margin this is firm.
    pub(crate) min_ttl: Option<Duration>,
    /// The generation at which the call began to wait. A token that came since is taken as it came.
    pub(crate) waiting_since: Option<u16>,
}

/// What is to be done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass { start: bool },
    Wait { start: bool },
    Refuse(Refusal),
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The next try is due after this time.
    Expired(Duration),
    Rejected,
    /// The source's tokens live too short for what the call asks.
    LivesTooShort {
        life: Duration,
        asked: Duration,
    },
    /// The call's patience is over.
    OutOfPatience(Reason),
}

/// How the source answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Landed {
    Life(TokenLife),
    Rejected {
        error: Arc<str>,
        recovery: Arc<str>,
    },
    Unavailable {
        error: Arc<str>,
        retry_after: Option<Duration>,
    },
    /// A layer on the way refused to ask. That is no failure of the source's.
    Refused {
        error: Arc<str>,
        retry_after: Option<Duration>,
    },
}

impl Landed {
    fn is_new_token(&self, errand: Errand) -> bool {
        let is_token = matches!(self, Self::Life(life) if *life != TokenLife::EXPIRED);
        is_token && errand == Errand::Refresh
    }
}

/// How good the token is for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Fresh,
    /// In the advisory window.
    Ageing,
    /// In the mandatory window: good enough where there is no better.
    Marginal,
    /// No good.
    Unfit,
    LivesTooShort(Duration),
}

/// Until when nothing is to be done for calls without a demand of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    No,
    Until(Instant),
    ForEver,
}

impl Machine {
    pub(crate) const fn new(config: TokenFreshnessConfig) -> Self {
        Self {
            config,
            token: Token::Unknown,
            generation: 0,
            refresher: Refresher::Idle,
            asked: 0,
            failures: 0,
            last_error: None,
            recovery: None,
            whole_life: None,
            unaccepted: 0,
        }
    }

    pub(crate) const fn generation(&self) -> u16 {
        self.generation
    }

    pub(crate) fn verdict(&self, demand: Demand, now: Instant) -> Verdict {
        let (in_flight, due) = match self.refresher {
            Refresher::InFlight { .. } => (true, false),
            Refresher::Idle => (false, true),
            Refresher::Resting { until } => (false, now >= until),
            Refresher::Rejected => (false, false),
        };
        match self.fitness(demand, now) {
            Fitness::Fresh => Verdict::Pass { start: false },
            Fitness::Ageing => Verdict::Pass { start: due },
            Fitness::Marginal | Fitness::Unfit if in_flight || due => Verdict::Wait { start: due },
            Fitness::Marginal => Verdict::Pass { start: false },
            Fitness::Unfit => Verdict::Refuse(match self.refresher {
                Refresher::Resting { until } => Refusal::Expired(until - now),
                _ => Refusal::Rejected,
            }),
            Fitness::LivesTooShort(life) => Verdict::Refuse(Refusal::LivesTooShort {
                life,
                asked: demand.min_ttl.unwrap_or_default(),
            }),
        }
    }

    /// Whether a call whose patience is over passes all the same.
    pub(crate) fn is_usable(&self, demand: Demand, now: Instant) -> bool {
        !matches!(
            self.fitness(demand, now),
            Fitness::Unfit | Fitness::LivesTooShort(_)
        )
    }

    fn fitness(&self, demand: Demand, now: Instant) -> Fitness {
        let Token::Held(held) = self.token else {
            return Fitness::Unfit;
        };
        let Some(life) = held.life else {
            return Fitness::Fresh;
        };
        let asked = demand.min_ttl.unwrap_or_default();
        let is_new = demand
            .waiting_since
            .is_some_and(|generation| generation != self.generation);
        // Who has waited for this token is not to find it too old, or it would wait for ever.
        if is_new && held.whole && life.duration >= asked {
            return Fitness::Fresh;
        }
        let left = life.expires_at.saturating_duration_since(now);
        if left.is_zero() {
            Fitness::Unfit
        } else if left < asked {
            let is_young = left > life.duration / 2;
            if held.whole && life.duration < asked && is_young {
                // The next one would live no longer.
                Fitness::LivesTooShort(life.duration)
            } else {
                Fitness::Unfit
            }
        } else if now >= life.mandatory_at {
            Fitness::Marginal
        } else if now >= life.refresh_at {
            Fitness::Ageing
        } else {
            Fitness::Fresh
        }
    }

    /// Begins to ask the source.
    pub(crate) fn begin(&mut self, now: Instant) -> (u64, Errand) {
        let errand = match self.token {
            Token::Unknown => Errand::Current,
            Token::Bad | Token::Held(_) => Errand::Refresh,
        };
        self.refresher = Refresher::InFlight {
            since: now,
            errand,
            overtaken: false,
        };
        self.asked += 1;
        (self.asked, errand)
    }

    /// The source has answered. `roll` is a random number from 0 to 1.
    pub(crate) fn land(&mut self, number: u64, landed: Landed, roll: f64, now: Instant) -> bool {
        let Refresher::InFlight {
            errand, overtaken, ..
        } = self.refresher
        else {
            return false;
        };
        if number != self.asked {
            return false;
        }
        self.refresher = Refresher::Idle;
        if overtaken && !landed.is_new_token(errand) {
            // What was set from outside is newer than this answer.
            return true;
        }
        match (landed, errand) {
            (Landed::Life(TokenLife::EXPIRED), Errand::Current) => self.token = Token::Bad,
            (Landed::Life(TokenLife::EXPIRED), Errand::Refresh) => {
                let error = "the source gave a token that has expired already";
                self.fail(error.into(), None, roll, now);
            }
            (Landed::Life(life), errand) => {
                self.hold(life, errand == Errand::Refresh, roll, now);
            }
            (Landed::Rejected { error, recovery }, _) => {
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
                self.recovery = Some(recovery);
                self.refresher = Refresher::Rejected;
            }
            (Landed::Unavailable { error, retry_after }, _) => {
                self.fail(error, retry_after, roll, now);
            }
            (Landed::Refused { error, retry_after }, _) => {
                let rest = retry_after.unwrap_or(self.config.initial_backoff);
                self.rest(error, rest, now);
            }
        }
        true
    }

    /// A call came back unauthorised, which went out with this generation of the token.
    pub(crate) fn unauthorized(&mut self, generation: u16, now: Instant) -> bool {
        let Token::Held(held) = self.token else {
            return false;
        };
        if generation != self.generation {
            return false;
        }
        if self.unaccepted > 0 {
            // The token before it was not accepted either. A new one each time would be a storm, and
            // of no use where it is only this one call that is not allowed.
            let trusted_until = saturating_add(held.since, self.backoff(self.unaccepted - 1));
            if now < trusted_until {
                return false;
            }
            if now >= saturating_add(trusted_until, self.config.max_backoff) {
                self.unaccepted = 0;
            }
        }
        self.unaccepted = self.unaccepted.saturating_add(1);
        self.token = Token::Bad;
        true
    }

    /// The token is known to be bad from elsewhere.
    pub(crate) fn invalidate(&mut self) {
        if matches!(self.token, Token::Held(_)) {
            self.token = Token::Bad;
        }
    }

    /// Somebody has seen to a new token.
    pub(crate) fn supply(&mut self, life: TokenLife, roll: f64, now: Instant) {
        self.start_afresh();
        if life == TokenLife::EXPIRED {
            self.token = Token::Bad;
        } else {
            self.hold(life, true, roll, now);
        }
    }

    /// Nothing is known any more.
    pub(crate) fn reset(&mut self) {
        self.start_afresh();
        self.token = Token::Unknown;
        self.whole_life = None;
    }

    fn start_afresh(&mut self) {
        match &mut self.refresher {
            // It is not cut off: a provider that rotates would count that as theft.
            Refresher::InFlight { overtaken, .. } => *overtaken = true,
            refresher => *refresher = Refresher::Idle,
        }
        self.unaccepted = 0;
        self.forgive();
    }

    fn forgive(&mut self) {
        self.failures = 0;
        self.last_error = None;
        self.recovery = None;
    }

    fn hold(&mut self, life: TokenLife, whole: bool, roll: f64, now: Instant) {
        self.forgive();
        self.generation = self.generation.wrapping_add(1);
        if whole {
            self.whole_life = life.expires_in.map(|life| life.min(LONGEST_LIFE));
        }
        self.token = Token::Held(Held {
            since: now,
            whole,
            life: life.expires_in.map(|life| self.life(life, roll, now)),
        });
    }

    fn life(&self, duration: Duration, roll: f64, now: Instant) -> Life {
        let duration = duration.min(LONGEST_LIFE);
        let margin = duration.max(self.whole_life.unwrap_or_default()) / 4;
        let margin = self.config.min_ttl.min(margin);
        // Without a whole life, what is left may be the end of a long one: then refresh in time.
        let most = self.whole_life.map_or(Duration::MAX, |whole| whole / 2);
        let ahead = self.config.refresh_ahead.min(most);
        let ahead = self.shortened(ahead.min(LONGEST_LIFE), roll).max(margin);
        Life {
            duration,
            refresh_at: saturating_add(now, duration.saturating_sub(ahead)),
            mandatory_at: saturating_add(now, duration.saturating_sub(margin)),
            expires_at: saturating_add(now, duration),
        }
    }

    fn fail(&mut self, error: Arc<str>, asked: Option<Duration>, roll: f64, now: Instant) {
        let backoff = self.shortened(self.backoff(self.failures), roll);
        self.failures = self.failures.saturating_add(1);
        self.rest(error, backoff.max(asked.unwrap_or_default()), now);
    }

    fn rest(&mut self, error: Arc<str>, rest: Duration, now: Instant) {
        let longest = LONGEST_REST.max(self.config.max_backoff);
        let rest = rest.clamp(Duration::from_millis(1), longest);
        self.last_error = Some(error);
        self.refresher = Refresher::Resting {
            until: saturating_add(now, rest),
        };
    }

    fn backoff(&self, failures_before: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures_before);
        let backoff = self.config.initial_backoff.saturating_mul(factor);
        backoff.min(self.config.max_backoff).min(LONGEST_LIFE)
    }

    fn shortened(&self, duration: Duration, roll: f64) -> Duration {
        let share = f64::from(self.config.jitter) / 100.0 * roll.clamp(0.0, 1.0);
        duration.saturating_sub(duration.mul_f64(share))
    }

    /// Until when every call without a demand of its own passes, and starts nothing.
    pub(crate) fn quiet(&self, now: Instant) -> Quiet {
        let Token::Held(held) = self.token else {
            return Quiet::No;
        };
        let Some(life) = held.life else {
            return Quiet::ForEver;
        };
        let until = match self.refresher {
            Refresher::Idle => life.refresh_at,
            Refresher::InFlight { .. } => life.mandatory_at,
            Refresher::Resting { until } => until.max(life.refresh_at).min(life.expires_at),
            Refresher::Rejected => life.expires_at,
        };
        if now < until {
            Quiet::Until(until)
        } else {
            Quiet::No
        }
    }

    /// Until when the token is valid.
    pub(crate) fn valid(&self) -> Quiet {
        match self.token {
            Token::Held(Held { life: None, .. }) => Quiet::ForEver,
            Token::Held(Held {
                life: Some(life), ..
            }) => Quiet::Until(life.expires_at),
            Token::Unknown | Token::Bad => Quiet::No,
        }
    }

    /// When it makes sense to come back for who does not wait any longer.
    fn come_back(&self, now: Instant) -> Duration {
        match self.refresher {
            Refresher::InFlight { since, .. } => {
                // Nobody knows how long it takes: as long again as it has taken.
                let elapsed = now.saturating_duration_since(since);
                let left = self.config.refresh_timeout.saturating_sub(elapsed);
                elapsed.clamp(MOMENT, left.max(MOMENT))
            }
            Refresher::Resting { until } => until.saturating_duration_since(now).max(MOMENT),
            Refresher::Idle | Refresher::Rejected => MOMENT,
        }
    }

    pub(crate) fn rejection(&self, refusal: Refusal, now: Instant) -> Rejection {
        let error = self.last_error.as_deref();
        match refusal {
            Refusal::Expired(retry_after) => {
                let rejection = Rejection::new(LAYER, Reason::TokenExpired);
                let rejection = rejection.with_retry_after(retry_after);
                match error {
                    Some(error) => rejection.with_detail(error.to_owned()),
                    None => rejection,
                }
            }
            Refusal::Rejected => {
                let error = error.unwrap_or_default();
                let recovery = self.recovery.as_deref().unwrap_or_default();
                Rejection::new(LAYER, Reason::GrantRejected)
                    .with_detail(format!("{error}; to recover, {recovery}"))
            }
            Refusal::LivesTooShort { life, asked } => {
                Rejection::new(LAYER, Reason::TokenExpired).with_detail(format!(
                    "the call asks for a token that is valid for {asked:?}, and new ones live {life:?}"
                ))
            }
            Refusal::OutOfPatience(reason) => Rejection::new(LAYER, reason)
                .with_detail("the refresh is in flight and goes on")
                .with_retry_after(self.come_back(now)),
        }
    }

    pub(crate) fn snapshot(&self, now: Instant) -> TokenFreshnessState {
        let until = |instant: Instant| millis(instant.saturating_duration_since(now));
        let life = match self.token {
            Token::Held(held) => held.life,
            Token::Unknown | Token::Bad => None,
        };
        TokenFreshnessState {
            status: match self.token {
                Token::Unknown => TokenStatus::Unknown,
                Token::Bad => TokenStatus::Invalid,
                Token::Held(_) if life.is_some_and(|life| now >= life.expires_at) => {
                    TokenStatus::Expired
                }
                Token::Held(_) => TokenStatus::Valid,
            },
            expires_in_ms: life.map(|life| until(life.expires_at)),
            refresh_in_ms: life.map(|life| until(life.refresh_at)),
            is_refreshing: matches!(self.refresher, Refresher::InFlight { .. }),
            is_grant_rejected: self.refresher == Refresher::Rejected,
            recovery: self.recovery.as_deref().map(str::to_owned),
            failures: self.failures,
            last_error: self.last_error.as_deref().map(str::to_owned),
            next_attempt_in_ms: match self.refresher {
                Refresher::Resting { until } => {
                    Some(millis_ceil(until.saturating_duration_since(now)))
                }
                _ => None,
            },
            token_calls: self.asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn machine(jitter: u8) -> Machine {
        let config = TokenFreshnessConfig::builder()
            .refresh_ahead(20 * SECOND)
            .min_ttl(12 * SECOND)
            .jitter(jitter);
        Machine::new(config.build().unwrap())
    }

    fn refresh_in(machine: &Machine, now: Instant) -> Option<Duration> {
        let state = machine.snapshot(now);
        state.refresh_in_ms.map(Duration::from_millis)
    }

    #[test]
    fn jitter_shortens_the_advisory_window_down_to_the_mandatory_one() {
        let now = Instant::now();
        for (roll, refresh_at) in [(0.0, 80), (0.5, 85), (1.0, 88)] {
            let mut machine = machine(50);
            machine.supply(TokenLife::of(100 * SECOND), roll, now);
            assert_eq!(refresh_in(&machine, now), Some(refresh_at * SECOND));
        }
    }

    #[test]
    fn jitter_shortens_the_backoff() {
        let now = Instant::now();
        for (roll, rest) in [(0.0, 1000), (1.0, 500)] {
            let mut machine = machine(50);
            let (number, _) = machine.begin(now);
            let failed = Landed::Unavailable {
                error: "down".into(),
                retry_after: None,
            };
            machine.land(number, failed, roll, now);
            let rest = Duration::from_millis(rest);
            let expected = Verdict::Refuse(Refusal::Expired(rest));
            assert_eq!(machine.verdict(Demand::default(), now), expected);
        }
    }

    #[test]
    fn the_windows_are_shares_of_a_short_life() {
        let now = Instant::now();
        let mut machine = machine(0);
        machine.supply(TokenLife::of(8 * SECOND), 0.0, now);
        let verdict = |seconds| machine.verdict(Demand::default(), now + seconds * SECOND);
        assert_eq!(verdict(3), Verdict::Pass { start: false });
        assert_eq!(verdict(4), Verdict::Pass { start: true });
        assert_eq!(verdict(6), Verdict::Wait { start: true });
    }

    #[test]
    fn where_it_is_quiet_every_call_passes_and_starts_nothing() {
        let now = Instant::now();
        let mut machine = machine(0);
        assert_eq!(machine.quiet(now), Quiet::No);
        machine.supply(TokenLife::of(100 * SECOND), 0.0, now);
        for at in [0, 80, 85] {
            // At first with nothing in flight, then with a refresh, then after it has failed.
            let at = now + at * SECOND;
            if let Verdict::Pass { start: true } = machine.verdict(Demand::default(), at) {
                let (number, _) = machine.begin(at);
                assert_quiet(&machine, at);
                let failed = Landed::Unavailable {
                    error: "down".into(),
                    retry_after: Some(2 * SECOND),
                };
                machine.land(number, failed, 0.0, at);
            }
            assert_quiet(&machine, at);
        }
    }

    #[track_caller]
    fn assert_quiet(machine: &Machine, from: Instant) {
        let Quiet::Until(until) = machine.quiet(from) else {
            panic!("something is to be done at once");
        };
        let verdict = |at| machine.verdict(Demand::default(), at);
        let last = until - Duration::from_millis(1);
        assert_eq!(verdict(last), Verdict::Pass { start: false });
        assert_ne!(verdict(until), Verdict::Pass { start: false });
    }

    #[test]
    fn what_an_older_token_met_says_nothing_about_this_one() {
        let now = Instant::now();
        let mut machine = machine(0);
        machine.supply(TokenLife::ENDLESS, 0.0, now);
        let older = machine.generation();
        machine.supply(TokenLife::ENDLESS, 0.0, now);
        assert!(!machine.unauthorized(older, now));
        assert_eq!(machine.quiet(now), Quiet::ForEver);
        assert!(machine.unauthorized(machine.generation(), now));
        assert_eq!(machine.quiet(now), Quiet::No);
    }

    #[test]
    fn who_waited_for_a_token_takes_it_as_it_came() {
        let now = Instant::now();
        let mut machine = machine(0);
        let mut demand = Demand {
            min_ttl: Some(SECOND),
            waiting_since: Some(machine.generation()),
        };
        machine.supply(TokenLife::of(SECOND), 0.0, now);
        let late = now + 2 * SECOND;
        let pass = Verdict::Pass { start: false };
        assert_eq!(machine.verdict(demand, late), pass);
        demand.min_ttl = Some(2 * SECOND);
        assert_ne!(machine.verdict(demand, late), pass);
        demand = Demand::default();
        assert_eq!(machine.verdict(demand, late), Verdict::Wait { start: true });
    }

    #[test]
    fn an_old_answer_changes_nothing() {
        let now = Instant::now();
        let mut machine = machine(0);
        let (number, _) = machine.begin(now);
        assert!(machine.land(number, Landed::Life(TokenLife::ENDLESS), 0.0, now));
        assert!(!machine.land(number, Landed::Life(TokenLife::EXPIRED), 0.0, now));
        assert_eq!(machine.quiet(now), Quiet::ForEver);
    }
}
