//! What an attempt knows of those before it.

use serde::{Deserialize, Serialize};
use temporalio_sdk::activities::ActivityContext;
use toolweir_core::Delivery;

/// The last heartbeat details of an attempt that reports how it ended.
///
/// Temporal repeats an attempt that failed and one that it has heard nothing more of in the same way,
/// and tells the next one nothing but these details. A worker that is killed in the middle of a call
/// leaves none, and nobody can say whether the call was executed.
#[derive(Debug, Serialize, Deserialize)]
struct Settled {
    settled_attempt: u32,
}

/// What is known of the attempt before this one, where it did not report how it ended.
pub(crate) fn earlier(context: &ActivityContext) -> Option<Delivery> {
    let info = context.info();
    // A local activity has no heartbeats: it is repeated by the worker that has heard how it ended, and
    // when that dies it begins anew, of which it knows nothing.
    if info.is_local {
        return None;
    }
    let details = context.heartbeat_details();
    // Details of another kind are those of a call that was under way.
    let settled = details.deserialize::<Settled>().ok().flatten();
    let is_settled = match info.attempt.checked_sub(1).filter(|before| *before > 0) {
        Some(before) => settled.is_some_and(|settled| settled.settled_attempt == before),
        // The first, or one that an operator's reset has made the first: what was before it is not counted.
        None => settled.is_some() || details.raw().is_empty(),
    };
    (!is_settled).then_some(Delivery::Ambiguous)
}

/// Lets the next attempt know that this one reports how it ended. The details go to the server with the
/// failure that it reports.
pub(crate) async fn settle(context: &ActivityContext) {
    let settled_attempt = context.info().attempt;
    // Only an unserialisable payload can fail, and this is none.
    let _ = context.record_heartbeat(Settled { settled_attempt }).await;
}

/// What became of a call whose attempts ended so: the less certain of the two.
pub(crate) const fn of_both(earlier: Option<Delivery>, this: Delivery) -> Delivery {
    match (earlier, this) {
        (None | Some(Delivery::NotSent), this) => this,
        (Some(earlier), Delivery::NotSent) => earlier,
        (Some(_), this) => this,
    }
}
