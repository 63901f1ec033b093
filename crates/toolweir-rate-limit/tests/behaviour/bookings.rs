//! Refused calls that have a slot of their own.

use super::*;

impl Rig {
    fn tried(&mut self, id: &str) -> Progress {
        self.call_as(Some(id), 0, 1, None).poll()
    }

    /// How many milliseconds a call is to wait that is refused.
    fn told(&mut self, id: &str) -> u64 {
        let (_, wait) = self.tried(id).refusal().expect("it is refused");
        u64::try_from(wait.unwrap().as_millis()).unwrap()
    }

    fn passes(&mut self, id: &str) -> bool {
        self.tried(id) == Progress::Pending
    }

    /// The calls that have a booking, those that came for theirs, and those that did not.
    fn booked(&self) -> (usize, u64, u64) {
        let state = self.handle.state();
        let ended = (state.redeemed_bookings, state.lapsed_bookings);
        (state.bookings, ended.0, ended.1)
    }
}

/// A rig whose burst is spent. Nobody waits, and a booking has a second of grace.
fn spent_rig(burst: u32) -> Rig {
    let config = config(burst)
        .max_wait(Duration::ZERO)
        .booking_grace(SECOND)
        .max_bookings(2_000);
    let mut rig = Rig::new(config.build().unwrap());
    for _ in 0..burst {
        let _call = rig.pending(0);
    }
    rig
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_over_the_limit_return_each_at_their_own_time() {
    let mut rig = spent_rig(10);
    let ids: Vec<String> = (0..1000).map(|number| format!("call-{number}")).collect();
    for (at, id) in ids.iter().enumerate() {
        assert_eq!(rig.told(id), 100 * (at as u64 + 1));
    }
    for id in &ids {
        advance(INTERVAL).await;
        assert!(rig.passes(id), "{id} is at its time");
    }
    assert_eq!(rig.booked(), (0, 1000, 0));
}

#[tokio::test(start_paused = true)]
async fn an_early_caller_keeps_its_slot_and_gains_none() {
    let mut rig = spent_rig(1);
    assert_eq!((rig.told("a"), rig.told("b")), (100, 200));
    advance(40 * MILLI).await;
    assert_eq!((rig.told("b"), rig.told("a")), (160, 60));
    assert_eq!(rig.handle.state().booked_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn an_unbooked_call_does_not_take_a_booked_cell() {
    let mut rig = spent_rig(2);
    assert_eq!((rig.told("a"), rig.told("b")), (100, 200));
    advance(100 * MILLI).await;
    assert_eq!(rig.refused(), spent(200 * MILLI));
    // Late, and both cells are there, but they are spoken for.
    advance(150 * MILLI).await;
    assert_eq!(rig.available(), 2);
    assert_eq!(rig.refused(), spent(100 * MILLI));
    assert!(rig.passes("b") && rig.passes("a"));
}

#[tokio::test(start_paused = true)]
async fn an_unbooked_call_passes_if_cells_remain_after_all_bookings() {
    let mut rig = spent_rig(3);
    assert_eq!(rig.told("a"), 100);
    advance(200 * MILLI).await;
    let _spare = rig.pending(1);
    assert!(rig.refused().is_some());
    assert!(rig.passes("a"));
    assert!(rig.refused().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_costly_booking_is_not_made_late_by_a_cheap_call() {
    let mut rig = spent_rig(2);
    let refusal = rig.call_as(Some("a"), 0, 2, None).poll().refusal();
    assert_eq!(refusal, spent(200 * MILLI));
    advance(100 * MILLI).await;
    assert_eq!(rig.refused(), spent(200 * MILLI));
    advance(100 * MILLI).await;
    let costly = rig.call_as(Some("a"), 0, 2, None).poll();
    assert_eq!(costly, Progress::Pending);
}

#[tokio::test(start_paused = true)]
async fn without_a_call_id_there_is_no_booking() {
    let mut rig = spent_rig(1);
    assert_eq!(rig.refused(), spent(100 * MILLI));
    assert_eq!(rig.refused(), spent(100 * MILLI));
    assert_eq!(rig.booked(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_caller_is_served_until_the_grace_is_over() {
    let mut rig = spent_rig(1);
    assert_eq!(rig.told("a"), 100);
    advance(1100 * MILLI).await;
    assert_eq!(rig.booked(), (1, 0, 0));
    assert!(rig.refused().is_some());
    assert!(rig.passes("a"));
    assert_eq!(rig.booked(), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_booking_nobody_comes_for_lapses_and_its_slot_is_lost() {
    let mut rig = spent_rig(1);
    let told = ["a", "b", "c"].map(|id| rig.told(id));
    assert_eq!(told, [100, 200, 300]);
    advance(1100 * MILLI + NANO).await;
    assert_eq!(rig.booked(), (2, 0, 1));
    // It is a new call by now, after those that have bookings.
    assert_eq!(rig.told("a"), 200);
    assert!(rig.passes("b"));
    assert_eq!(rig.told("c"), 100);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_booking_moves_nobody_up() {
    let mut rig = spent_rig(1);
    let far: Vec<u64> = (0..15)
        .map(|number| rig.told(&format!("{number}")))
        .collect();
    assert_eq!(far.last(), Some(&1500));
    advance(1200 * MILLI).await;
    assert_eq!(rig.booked().2, 1);
    assert_eq!(rig.told("14"), 300);
}

#[tokio::test(start_paused = true)]
async fn late_callers_are_told_each_a_time_of_their_own() {
    let mut rig = spent_rig(1);
    assert_eq!(
        ["a", "b", "c", "d"].map(|id| rig.told(id)),
        [100, 200, 300, 400]
    );
    advance(350 * MILLI).await;
    assert!(rig.passes("a"));
    assert_eq!((rig.told("b"), rig.told("c")), (100, 200));
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded() {
    let config = config(1).max_wait(Duration::ZERO).max_bookings(2);
    let mut rig = Rig::new(config.build().unwrap());
    let _first = rig.pending(0);
    let told = ["a", "b", "c", "d"].map(|id| rig.told(id));
    assert_eq!(told, [100, 200, 300, 300]);
    let state = rig.handle.state();
    assert_eq!((state.bookings, state.most_bookings), (2, 2));
    advance(INTERVAL).await;
    assert!(rig.passes("a"));
    assert_eq!((rig.told("c"), rig.booked().0), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_another_cost_is_another_call() {
    let mut rig = spent_rig(2);
    assert_eq!(rig.told("a"), 100);
    let refusal = rig.call_as(Some("a"), 0, 2, None).poll().refusal();
    assert_eq!(refusal, spent(300 * MILLI));
    advance(INTERVAL).await;
    assert!(rig.passes("a"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_its_slot_and_is_dropped_keeps_the_booking() {
    let mut rig = rig(1);
    let _first = rig.pending(0);
    let _others = [rig.pending(1), rig.pending(2)];
    assert_eq!(rig.told("a"), 300);
    advance(100 * MILLI).await;
    let mut waiting = rig.call_as(Some("a"), 9, 1, None);
    assert_eq!(waiting.poll(), Progress::Pending);
    // Another attempt of the same call does not share the booking with the first.
    assert!(
        rig.call_as(Some("a"), 9, 1, None)
            .poll()
            .refusal()
            .is_some()
    );
    assert_eq!(rig.handle.state().waiting, 3);
    drop(waiting);
    assert_eq!((rig.handle.state().waiting, rig.booked()), (2, (1, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_comes_a_moment_early_waits_and_passes_at_its_slot() {
    let mut rig = rig(1);
    let _first = rig.pending(0);
    let mut others = [rig.pending(1), rig.pending(2)];
    assert_eq!(rig.told("a"), 300);
    for other in &mut others {
        advance(INTERVAL).await;
        assert_eq!(other.poll(), Progress::Pending);
    }
    let mut call = rig.call_as(Some("a"), 9, 1, None);
    assert_eq!(call.poll(), Progress::Pending);
    assert_eq!(rig.handle.state().waiting, 1);
    advance(INTERVAL).await;
    assert_eq!(call.poll(), Progress::Pending);
    assert!(rig.server.calls().contains(&9));
    assert_eq!(rig.booked(), (0, 1, 0));
}

/// However long after the time that it was told: it is here.
#[tokio::test(start_paused = true)]
async fn a_booking_whose_call_is_back_and_waits_does_not_lapse() {
    let config = config(1).booking_grace(20 * MILLI).build().unwrap();
    let mut rig = Rig::new(config);
    let _first = rig.pending(0);
    let others = [rig.pending(1), rig.pending(2)];
    assert_eq!(rig.told("a"), 300);
    drop(others);
    advance(200 * MILLI).await;
    let mut waiting = rig.call_as(Some("a"), 9, 1, None);
    assert_eq!(waiting.poll(), Progress::Pending);
    rig.handle.pause(200 * MILLI);
    advance(200 * MILLI - NANO).await;
    assert_eq!(rig.booked(), (1, 0, 0));
    advance(NANO).await;
    assert_eq!(waiting.poll(), Progress::Pending);
    assert!(rig.server.calls().contains(&9));
    assert_eq!(rig.booked(), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pause_moves_bookings_away_and_resuming_brings_them_back() {
    let mut rig = spent_rig(1);
    assert_eq!((rig.told("a"), rig.told("b")), (100, 200));
    rig.handle.pause(SECOND);
    assert_eq!((rig.told("a"), rig.told("b")), (1000, 1100));
    advance(500 * MILLI).await;
    rig.handle.resume();
    assert!(rig.passes("a"));
    assert_eq!(rig.told("b"), 100);
}

#[tokio::test(start_paused = true)]
async fn a_slower_quota_moves_bookings_away_and_a_faster_one_leaves_them() {
    let mut rig = spent_rig(1);
    assert_eq!((rig.told("a"), rig.told("b")), (100, 200));
    rig.handle.set_quota(5, SECOND).unwrap();
    assert_eq!((rig.told("a"), rig.told("b")), (200, 400));
    rig.handle.set_quota(100, SECOND).unwrap();
    assert_eq!((rig.told("a"), rig.told("b")), (200, 400));
    advance(200 * MILLI).await;
    assert!(rig.passes("a"));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_finds_its_bookings_lapsed() {
    let mut rig = spent_rig(2);
    assert_eq!((rig.told("a"), rig.told("b")), (100, 200));
    advance(Duration::from_secs(400 * 24 * 3600)).await;
    assert_eq!(rig.booked(), (0, 0, 2));
    assert_eq!(rig.available(), 2);
    assert!(rig.passes("c") && rig.passes("b"));
    assert_eq!(rig.told("a"), 100);
}
