//! Heartbeats beside a piece of work, from its first poll to its end.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

/// How often to beat where the activity has no heartbeat timeout: often enough to hear of a
/// cancellation.
const WITHOUT_TIMEOUT: Duration = Duration::from_secs(10);
/// No more often than this, whatever the timeout.
const SHORTEST: Duration = Duration::from_millis(50);

/// A third of the heartbeat timeout: two beats may be lost on the way.
pub(crate) fn period(timeout: Option<Duration>) -> Duration {
    timeout
        .filter(|timeout| !timeout.is_zero())
        .map_or(WITHOUT_TIMEOUT, |timeout| timeout / 3)
        .max(SHORTEST)
}

/// Runs `work` to its end, with a beat at once and then every `period`; `None` if `cancelled` ends
/// first, and then `work` is dropped, which cancels the call that it makes.
///
/// Work that is done counts before a cancellation that came at the same time.
pub(crate) async fn beating<W, B, F>(
    period: Duration,
    mut beat: B,
    cancelled: impl Future<Output = ()>,
    work: W,
) -> Option<W::Output>
where
    W: Future,
    B: FnMut() -> F,
    F: Future<Output = ()>,
{
    let mut work = pin!(work);
    let mut cancelled = pin!(cancelled);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            output = &mut work => return Some(output),
            () = &mut cancelled => return None,
            _ = ticks.tick() => beat().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, ready},
    };

    use tokio::time::{Instant, sleep};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn it_beats_from_the_first_poll_to_the_result() {
        let beats = Cell::new(0);
        let beat = || async { beats.set(beats.get() + 1) };
        let work = async {
            sleep(PERIOD * 2 + PERIOD / 2).await;
            7
        };
        assert_eq!(beating(PERIOD, beat, pending(), work).await, Some(7));
        // At 0, 3 and 6 seconds.
        assert_eq!(beats.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn cancellation_drops_the_work_at_once() {
        struct Dropped<'a>(&'a Cell<Option<Instant>>);
        impl Drop for Dropped<'_> {
            fn drop(&mut self) {
                self.0.set(Some(Instant::now()));
            }
        }
        let dropped = Cell::new(None);
        let start = Instant::now();
        let guard = Dropped(&dropped);
        let work = async {
            let _guard = guard;
            pending::<()>().await;
        };
        let result = beating(PERIOD, || ready(()), sleep(PERIOD / 2), work).await;
        assert_eq!(result, None);
        assert_eq!(dropped.get(), Some(start + PERIOD / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_counts_before_a_cancellation() {
        assert_eq!(
            beating(PERIOD, || ready(()), ready(()), ready(7)).await,
            Some(7)
        );
    }

    #[test]
    fn the_period_is_a_third_of_the_timeout() {
        assert_eq!(period(Some(Duration::from_secs(9))), Duration::from_secs(3));
        assert_eq!(period(None), WITHOUT_TIMEOUT);
        assert_eq!(period(Some(Duration::ZERO)), WITHOUT_TIMEOUT);
        assert_eq!(period(Some(Duration::from_nanos(3))), SHORTEST);
    }
}
