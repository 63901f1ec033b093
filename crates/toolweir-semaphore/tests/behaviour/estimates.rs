//! What is known of a wait before it begins.

use super::*;

/// How long each call takes at the server.
const HOLD: Duration = Duration::from_millis(1_000);

fn rig(permits: usize) -> Rig {
    let config = config(permits, 100).max_wait(Duration::from_secs(3600));
    Rig::new(config.build().unwrap())
}

impl Rig {
    /// So many calls one after the other, that each hold a permit for as long.
    async fn past(&mut self, calls: usize, hold: Duration) {
        for number in 0..calls {
            let mut call = self.pending(number);
            advance(hold).await;
            self.server.answer(number, Answer::Done);
            assert_eq!(call.poll(), Progress::Done(number));
        }
    }

    fn within(&mut self, key: Key, wait: Duration) -> Call {
        self.call_of(key, 9_999, Some(Instant::now() + wait))
    }
}

fn refused_at_once(call: &mut Call) -> Option<Duration> {
    assert_eq!(call.poll(), Progress::Refused(Reason::DeadlineTooShort));
    call.rejection().unwrap().retry_after()
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_cannot_end_before_the_deadline_is_refused_at_once_with_the_estimate() {
    let mut rig = rig(2);
    rig.past(30, HOLD).await;
    let _under_way: Vec<Call> = (0..2).map(|number| rig.pending(number)).collect();
    let _waiting: Vec<Call> = (2..6).map(|number| rig.pending(number)).collect();
    // Four are ahead, and two permits come back each second: its own is the fifth.
    let mut call = rig.within(None, 2 * HOLD);
    assert_eq!(rig.queued(), 4);
    let retry_after = refused_at_once(&mut call).unwrap();
    assert!(
        retry_after.abs_diff(2_500 * MILLI) < MILLI,
        "{retry_after:?}"
    );
    let mut call = rig.within(None, 3 * HOLD);
    assert_eq!(call.poll(), Progress::Pending);
    assert_eq!(rig.queued(), 5);
}

/// With one permit it is known since when it is held.
#[tokio::test(start_paused = true)]
async fn a_wait_for_the_one_call_under_way_is_as_long_as_that_still_takes() {
    let mut rig = rig(1);
    rig.past(30, HOLD).await;
    let _holder = rig.pending(0);
    advance(HOLD / 2).await;
    assert_eq!(
        refused_at_once(&mut rig.within(None, 490 * MILLI)),
        Some(HOLD)
    );
    let mut just = rig.within(None, 510 * MILLI);
    assert_eq!(just.poll(), Progress::Pending);
    drop(just);
    // It takes longer than is usual. Nobody knows how long, so nobody is refused for it.
    advance(10 * HOLD).await;
    let mut short = rig.within(None, MILLI);
    assert_eq!(short.poll(), Progress::Pending);
}

#[tokio::test(start_paused = true)]
async fn without_evidence_nobody_is_refused() {
    for known in 0..4 {
        let mut rig = rig(1);
        rig.past(known, HOLD).await;
        let _holder = rig.pending(100);
        let mut call = rig.within(None, MILLI);
        assert_eq!(call.poll(), Progress::Pending, "{known} holds are known");
        advance(MILLI).await;
        assert_eq!(refused_at_once(&mut call), None);
    }
}

#[tokio::test(start_paused = true)]
async fn old_evidence_is_none() {
    let mut rig = rig(1);
    rig.past(30, HOLD).await;
    advance(Duration::from_secs(61)).await;
    let _holder = rig.pending(0);
    let mut call = rig.within(None, MILLI);
    assert_eq!(call.poll(), Progress::Pending);
    assert_eq!(rig.handle.state().usual_hold_ms, None);
}

/// A server that is slow to start does not shut out the calls that come next.
#[tokio::test(start_paused = true)]
async fn one_slow_call_is_no_evidence() {
    let mut rig = rig(1);
    rig.past(1, 100 * HOLD).await;
    rig.past(3, 10 * MILLI).await;
    let _holder = rig.pending(0);
    let mut call = rig.within(None, 20 * MILLI);
    assert_eq!(call.poll(), Progress::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_become_quick_is_believed_soon() {
    let mut rig = rig(1);
    rig.past(100, 10 * HOLD).await;
    // Of the calls that find a permit free one in 127 is measured.
    rig.past(6 * 127, 10 * MILLI).await;
    let _holder = rig.pending(0);
    let mut call = rig.within(None, 20 * MILLI);
    assert_eq!(call.poll(), Progress::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_wait_longer_than_the_longest_is_not_begun() {
    let config = config(1, 100).max_wait(HOLD / 2).build().unwrap();
    let mut rig = Rig::new(config);
    rig.past(30, HOLD).await;
    let _holder = rig.pending(0);
    let mut call = rig.call(1, None);
    assert_eq!(rig.queued(), 0);
    assert_eq!(call.poll(), Progress::Refused(Reason::WaitTooLong));
    assert_eq!(call.rejection().unwrap().retry_after(), Some(HOLD));
    assert!(!rig.handle.report().ready);
    advance(HOLD / 2).await;
    let mut call = rig.call(1, None);
    assert_eq!(call.poll(), Progress::Pending);
}

/// The estimate knows the order of the queue: who calls first has only the others' first ahead.
#[tokio::test(start_paused = true)]
async fn one_users_queue_does_not_count_against_another() {
    let mut rig = rig(1);
    rig.past(30, HOLD).await;
    let _holder = rig.pending(0);
    let _annas: Vec<Call> = (1..50)
        .map(|number| rig.pending_of("anna", number))
        .collect();
    let mut bens = rig.within(Some("ben"), 2_500 * MILLI);
    assert_eq!(bens.poll(), Progress::Pending);
    assert_eq!(
        refused_at_once(&mut rig.within(Some("anna"), 40 * HOLD)),
        Some(51 * HOLD)
    );
    drop(bens);
    let estimate = |key| rig.handle.for_key(key).estimated_wait_ms;
    assert_eq!(
        (estimate("anna"), estimate("ben")),
        (Some(50_000), Some(2_000))
    );
}

#[tokio::test(start_paused = true)]
async fn every_refusal_says_when_to_come_back_where_that_is_known() {
    let config = config(2, 1).max_wait(2 * HOLD).build().unwrap();
    let mut rig = Rig::new(config);
    rig.past(30, HOLD).await;
    let _under_way: Vec<Call> = (0..2).map(|number| rig.pending(number)).collect();
    let mut waiting = rig.pending(2);
    let mut full = rig.call(3, None);
    assert_eq!(full.poll(), Progress::Refused(Reason::QueueFull));
    assert_eq!(full.rejection().unwrap().retry_after(), Some(HOLD));
    advance(2 * HOLD).await;
    assert_eq!(waiting.poll(), Progress::Refused(Reason::WaitTooLong));
    assert_eq!(waiting.rejection().unwrap().retry_after(), Some(HOLD / 2));
}

/// A clock that jumps by a year, as that of a machine that slept, is no year-long call.
#[tokio::test(start_paused = true)]
async fn a_leap_of_the_clock_does_not_keep_callers_away() {
    let mut rig = rig(1);
    rig.past(3, 10 * MILLI).await;
    rig.past(1, Duration::from_secs(400 * 24 * 3600)).await;
    let _under_way = rig.pending(0);
    let _waiting: Vec<Call> = (1..50).map(|number| rig.pending(number)).collect();
    let mut call = rig.within(None, HOLD);
    assert_eq!(call.poll(), Progress::Pending);
    advance(HOLD).await;
    let hour = Duration::from_secs(3600);
    assert!(refused_at_once(&mut call).unwrap() <= hour);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_may_have_no_more_waits_for_its_own_calls() {
    let config = config(10, 100).max_per_key(2).max_wait(100 * HOLD);
    let mut rig = Rig::new(config.build().unwrap());
    rig.past(30, HOLD).await;
    let _annas: Vec<Call> = (0..4)
        .map(|number| rig.pending_of("anna", number))
        .collect();
    let retry_after = refused_at_once(&mut rig.within(Some("anna"), HOLD));
    assert_eq!(retry_after, Some(3 * HOLD / 2));
    let mut bens = rig.within(Some("ben"), MILLI);
    assert_eq!(bens.poll(), Progress::Pending);
    assert_eq!(rig.queued(), 2);
}
