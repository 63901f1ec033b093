//! What goes in and comes out while a layer is checked.

use toolweir_core::{CarryLease, Lease, LeaseOwner, LeaseSlot};

use crate::Answer;

/// The request that the contract sends through a layer. It can carry a breaker's leases.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) answer: Answer,
    leases: LeaseSlot,
}

impl Request {
    pub(crate) const fn new() -> Self {
        Self::wanting(Answer::Respond)
    }

    pub(crate) const fn wanting(answer: Answer) -> Self {
        Self {
            answer,
            leases: LeaseSlot::new(),
        }
    }
}

impl CarryLease for Request {
    fn put_lease(&mut self, lease: Lease) {
        self.leases.put_lease(lease);
    }

    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
        self.leases.take_lease(owner)
    }
}

/// The response that the contract expects back, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response(pub(crate) u64);
