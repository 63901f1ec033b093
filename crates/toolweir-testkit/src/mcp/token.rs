//! The server's own access token: a life, and nothing secret.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for any test that is not about tokens.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Token {
    life: Duration,
    issued: Instant,
    expired: bool,
    generation: u64,
}

impl Token {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            life: DEFAULT_LIFE,
            issued: now,
            expired: false,
            generation: 1,
        }
    }

    /// This token lives so long from now, and so do those that follow.
    pub(super) fn set_life(&mut self, life: Duration, now: Instant) {
        self.life = life;
        self.issued = now;
        self.expired = false;
    }

    pub(super) fn expire(&mut self) {
        self.expired = true;
    }

    pub(super) fn refresh(&mut self, now: Instant) {
        self.issued = now;
        self.expired = false;
        self.generation = self.generation.saturating_add(1);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn expires_in(&self, now: Instant) -> Duration {
        if self.expired {
            return Duration::ZERO;
        }
        self.life
            .saturating_sub(now.saturating_duration_since(self.issued))
    }

    pub(super) fn is_valid(&self, now: Instant) -> bool {
        !self.expires_in(now).is_zero()
    }

    /// Rounded down: a token is not valid for longer than it says.
    pub(super) fn expires_in_ms(&self, now: Instant) -> u64 {
        u64::try_from(self.expires_in(now).as_millis()).unwrap_or(u64::MAX)
    }
}
