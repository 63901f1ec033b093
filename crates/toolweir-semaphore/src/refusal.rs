//! What a refused call is told.

use toolweir_core::Rejection;

use crate::{
    keys::Name,
    state::{LAYER, Refusal},
};

/// The rejection, on the call's own key or else on the server's name.
pub(crate) fn rejection(refusal: &Refusal, name: Option<Name>) -> Rejection {
    let Refusal {
        reason,
        permits,
        in_flight,
        queued,
        retry_after,
    } = refusal;
    let mut rejection = Rejection::new(LAYER, *reason).with_detail(format!(
        "{in_flight} call{} under way with {permits} permit{}, {queued} waiting",
        plural(*in_flight),
        plural(*permits),
    ));
    if let Some(name) = name {
        rejection = rejection.with_key(name);
    }
    if let Some(retry_after) = retry_after {
        rejection = rejection.with_retry_after(*retry_after);
    }
    rejection
}

/// What a word ends with that stands behind this number.
const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
