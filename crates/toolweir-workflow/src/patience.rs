//! How long a workflow waits for a server, and how long between two questions: pure, given the time.

use std::time::{Duration, SystemTime};

/// Ask again no sooner, and twice as late each time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Pauses grow no longer than this, unless the patience is long.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The share of a long patience that a pause may take, so that a history has room for all of them.
const PAUSES: u32 = 100;

/// What a workflow waits in all: pauses, and what the questions themselves take.
#[derive(Debug)]
pub(crate) struct Patience {
    whole: Duration,
    began: Option<SystemTime>,
    /// What has passed at least, where the workflow is not told the time.
    paused: Duration,
    /// The next pause is no shorter than this.
    pause: Duration,
}

impl Patience {
    /// Begins `now`, in the workflow's time.
    pub(crate) const fn new(whole: Duration, now: Option<SystemTime>) -> Self {
        Self {
            whole,
            began: now,
            paused: Duration::ZERO,
            pause: SHORTEST_PAUSE,
        }
    }

    /// How long to wait before the next question, after a refusal that should end in `retry_after`;
    /// `None` if it ends later than the patience does, or nobody knows when.
    pub(crate) fn pause(
        &mut self,
        now: Option<SystemTime>,
        retry_after: Option<Duration>,
    ) -> Option<Duration> {
        let left = self.left(now);
        let told = retry_after?.max(SHORTEST_PAUSE);
        if told > left {
            return None;
        }
        let pause = told.max(self.pause).min(left);
        let longest = LONGEST_PAUSE.max(self.whole / PAUSES);
        self.pause = self.pause.saturating_mul(2).min(longest);
        self.paused = self.paused.saturating_add(pause);
        Some(pause)
    }

    fn left(&self, now: Option<SystemTime>) -> Duration {
        let passed = self.began.zip(now);
        let passed = passed.and_then(|(began, now)| now.duration_since(began).ok());
        let passed = passed.unwrap_or_default().max(self.paused);
        self.whole.saturating_sub(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(500));

    /// The pauses of a workflow that is always refused with `retry_after`, and whose questions take
    /// `question` each.
    fn pauses(
        patience: Duration,
        question: Duration,
        retry_after: Option<Duration>,
    ) -> Vec<Duration> {
        let mut now = SystemTime::UNIX_EPOCH;
        let mut patience = Patience::new(patience, Some(now));
        let mut pauses = Vec::new();
        loop {
            now += question;
            let Some(pause) = patience.pause(Some(now), retry_after) else {
                return pauses;
            };
            now += pause;
            pauses.push(pause);
        }
    }

    #[test]
    fn pauses_are_what_the_refusal_said_and_grow() {
        let pauses = pauses(Duration::from_secs(60), Duration::ZERO, SOON);
        let millis: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
        // The last one is what was left.
        assert_eq!(
            millis,
            [500, 500, 500, 800, 1600, 3200, 6400, 12_800, 25_600, 8100]
        );
    }

    #[test]
    fn what_the_questions_take_is_deducted() {
        let pauses = pauses(Duration::from_secs(10), Duration::from_secs(3), SOON);
        let millis: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
        // Three seconds, a pause, three, a pause, three and no second left.
        assert_eq!(millis, [500, 500]);
    }

    #[test]
    fn a_long_patience_makes_no_long_history() {
        for hours in [1, 24, 24 * 365] {
            let patience = Duration::from_secs(hours * 3600);
            for retry_after in [Duration::ZERO, Duration::from_millis(500)] {
                let pauses = pauses(patience, Duration::ZERO, Some(retry_after));
                assert!(pauses.len() < 150, "{hours} h: {}", pauses.len());
                assert_eq!(pauses.iter().sum::<Duration>(), patience);
            }
        }
    }

    #[test]
    fn there_is_nothing_to_wait_for_where_the_end_is_unknown_or_too_far() {
        let second = Duration::from_secs(1);
        assert!(pauses(second, Duration::ZERO, None).is_empty());
        assert!(pauses(second, Duration::ZERO, Some(2 * second)).is_empty());
        assert!(pauses(Duration::ZERO, Duration::ZERO, SOON).is_empty());
    }

    #[test]
    fn without_the_time_its_own_pauses_count() {
        let mut patience = Patience::new(Duration::from_secs(1), None);
        assert_eq!(patience.pause(None, SOON), SOON);
        assert_eq!(patience.pause(None, SOON), SOON);
        assert_eq!(patience.pause(None, SOON), None);
    }
}
