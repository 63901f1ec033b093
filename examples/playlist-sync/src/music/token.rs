//! The access token of the service, as far as it matters: how long it lasts.

use std::time::Duration;

use tokio::time::Instant;

/// A token that expires and is renewed in place.
#[derive(Debug)]
pub struct Token {
    life: Duration,
    generation: u64,
    issued_at: Instant,
}

impl Token {
    /// A token that is valid for `life` from `now` on.
    #[must_use]
    pub fn issue(generation: u64, life: Duration, now: Instant) -> Self {
        Self {
            life,
            generation,
            issued_at: now,
        }
    }

    /// How long it is still valid; zero once it has expired.
    #[must_use]
    pub fn expires_in(&self, now: Instant) -> Duration {
        self.life
            .saturating_sub(now.saturating_duration_since(self.issued_at))
    }

    /// Whether calls are taken with it.
    #[must_use]
    pub fn is_valid(&self, now: Instant) -> bool {
        !self.expires_in(now).is_zero()
    }

    /// Which token this is, counted over the life of the journal.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Replaces it by the next one, valid for a whole life again.
    pub fn refresh(&mut self, now: Instant) {
        self.generation = self.generation.saturating_add(1);
        self.issued_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(20);

    #[test]
    fn it_is_valid_for_its_life_and_no_longer() {
        let start = Instant::now();
        let token = Token::issue(1, LIFE, start);
        assert_eq!(token.expires_in(start), LIFE);
        assert!(token.is_valid(start + LIFE - Duration::from_nanos(1)));
        assert!(!token.is_valid(start + LIFE));
        assert_eq!(token.expires_in(start + LIFE * 3), Duration::ZERO);
    }

    #[test]
    fn a_refresh_gives_a_whole_life_from_then_on() {
        let start = Instant::now();
        let mut token = Token::issue(7, LIFE, start);
        token.refresh(start + LIFE * 2);
        assert_eq!(token.generation(), 8);
        assert_eq!(token.expires_in(start + LIFE * 2), LIFE);
        assert!(!token.is_valid(start + LIFE * 3));
    }

    #[test]
    fn a_token_without_life_is_never_valid() {
        let start = Instant::now();
        let mut token = Token::issue(1, Duration::ZERO, start);
        assert!(!token.is_valid(start));
        token.refresh(start);
        assert!(!token.is_valid(start));
    }
}
