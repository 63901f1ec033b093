//! Runs in which the ways to call take turns.

use anyhow::Result;
use tokio::time::Instant;
use toolweir_benches::progress::Progress;

use crate::{
    arguments::Plan,
    caller::{Caller, Way},
    drive::{Driven, Until, drive},
    figures::{Run, Runs},
    site::{Site, Transport},
};

/// Who takes part: bare twice, to tell noise from difference.
pub(crate) const PARTICIPANTS: [Way; 5] = [Way::Bare, Way::Timed, Way::Mcp, Way::Full, Way::Bare];

/// Measures one number of calls under way over one transport.
pub(crate) async fn measure(
    plan: &Plan,
    transport: Transport,
    in_flight: usize,
    progress: &Progress,
) -> Result<Runs> {
    let mut runs = Runs::new();
    for number in 0..plan.runs {
        runs.push(run(plan, transport, in_flight, number).await?);
        progress.step();
    }
    Ok(runs)
}

/// One run, on connections and servers of its own: how a process happens to lie in memory is not
/// what is measured.
async fn run(
    plan: &Plan,
    transport: Transport,
    in_flight: usize,
    number: usize,
) -> Result<[Run; PARTICIPANTS.len()]> {
    let site = Site::open(transport).await?;
    let mut callers = Vec::new();
    // Whoever starts first may get the better core: that is not always the same either.
    for place in 0..PARTICIPANTS.len() {
        let who = whose_turn(number, place);
        let caller = Caller::connect(PARTICIPANTS[who], &site).await?;
        warm_up(plan, &caller, in_flight).await?;
        callers.push((who, caller, Driven::default()));
    }
    callers.sort_by_key(|(who, ..)| *who);
    for turn in 0..plan.turns {
        for place in 0..callers.len() {
            let next = whose_turn(number + turn, place);
            let (_, caller, driven) = &mut callers[next];
            drive(caller, in_flight, Until::Over(plan.turn), driven).await?;
        }
    }
    let mut results = [Run::default(); PARTICIPANTS.len()];
    for (who, caller, driven) in callers {
        caller.close().await;
        results[who] = Run::of(driven);
    }
    Ok(results)
}

/// Calls for a while, so that buffers have their size and connections are made.
pub(crate) async fn warm_up(plan: &Plan, caller: &Caller, in_flight: usize) -> Result<()> {
    let begun = Instant::now();
    let mut driven = Driven::default();
    let calls = Until::Made(plan.warm_up.div_ceil(in_flight));
    drive(caller, in_flight, calls, &mut driven).await?;
    // A machine that saves power takes a moment until it does not.
    let rest = plan.turn.saturating_sub(begun.elapsed());
    drive(caller, in_flight, Until::Over(rest), &mut driven).await
}

/// Everybody is first, second, third and last equally often, and follows everybody.
const fn whose_turn(round: usize, place: usize) -> usize {
    let last = PARTICIPANTS.len() - 1;
    let forwards = (round / PARTICIPANTS.len()).is_multiple_of(2);
    let place = if forwards { place } else { last - place };
    (round + place) % PARTICIPANTS.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_one_turn_in_a_round_and_each_place_in_ten() {
        let mut places = [[0; PARTICIPANTS.len()]; PARTICIPANTS.len()];
        for round in 0..2 * PARTICIPANTS.len() {
            for place in 0..PARTICIPANTS.len() {
                places[whose_turn(round, place)][place] += 1;
            }
        }
        assert_eq!(places, [[2; PARTICIPANTS.len()]; PARTICIPANTS.len()]);
    }
}
