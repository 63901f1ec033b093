//! How admission hands observation the leave it gave, through the request.

use std::{any::Any, fmt, sync::Arc};

/// What a breaker wrote down when it admitted a call.
///
/// The numbers mean something to the [`LeaseOwner`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The owner's generation at admission.
    pub generation: u64,
    /// The number of the probe slot that the call holds, if it is a probe.
    pub probe: Option<u64>,
}

/// Gives [`Lease`]s and takes them back.
pub trait LeaseOwner: Any + Send + Sync {
    /// A lease was dropped before it was redeemed: the call was never dispatched.
    ///
    /// It runs in a destructor, so it must neither block nor panic.
    fn give_back(&self, ticket: Ticket);

    /// Whether `taker` may redeem this owner's leases. By default an owner redeems its own.
    ///
    /// A breaker with a circuit for each key has as many owners, and one taker for them all.
    fn lends_to(&self, taker: &dyn LeaseOwner) -> bool {
        // Only the data pointers count: one type's vtable may exist more than once.
        std::ptr::addr_eq(self, taker)
    }
}

/// The leave to make one call, given by admission and redeemed at dispatch.
///
/// Dropped before that, it goes back to its owner uncounted.
pub struct Lease {
    owner: Option<Arc<dyn LeaseOwner>>,
    ticket: Ticket,
}

impl Lease {
    /// A lease of `owner`'s.
    #[must_use]
    pub fn new(owner: Arc<dyn LeaseOwner>, ticket: Ticket) -> Self {
        Self {
            owner: Some(owner),
            ticket,
        }
    }

    /// Whether `owner` gave this lease, or may redeem it.
    #[must_use]
    pub fn is_from(&self, owner: &dyn LeaseOwner) -> bool {
        self.owner.as_deref().is_some_and(|own| own.lends_to(owner))
    }

    /// Takes the ticket out, at dispatch. The owner hears no more of the lease.
    #[must_use]
    pub fn redeem(mut self) -> Ticket {
        self.owner = None;
        self.ticket
    }

    /// As [`redeem`](Self::redeem), with the owner that gave it.
    #[must_use]
    pub fn redeem_from(mut self) -> (Option<Arc<dyn LeaseOwner>>, Ticket) {
        (self.owner.take(), self.ticket)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.give_back(self.ticket);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// A request that can carry leases from a breaker's admission to its observation.
///
/// Put a [`LeaseSlot`] into the request and forward to it. A clone of the request must carry none,
/// which [`LeaseSlot`]'s `Clone` sees to.
///
/// ```
/// use toolweir_core::{CarryLease, Lease, LeaseOwner, LeaseSlot};
///
/// #[derive(Clone)]
/// struct Job { name: String, leases: LeaseSlot }
///
/// impl CarryLease for Job {
///     fn put_lease(&mut self, lease: Lease) {
///         self.leases.put_lease(lease);
///     }
///     fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
///         self.leases.take_lease(owner)
///     }
/// }
/// ```
pub trait CarryLease {
    /// Stores a lease. One from the same owner that is stored already goes back.
    fn put_lease(&mut self, lease: Lease);

    /// Takes out the lease of `owner`'s, if there is one.
    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease>;
}

/// Room for the leases that a request carries: one from each breaker it passes.
#[derive(Debug, Default)]
pub struct LeaseSlot {
    // A stack has one breaker, so the first lease needs no allocation. Two nested ones work too.
    first: Option<Lease>,
    rest: Vec<Lease>,
}

impl LeaseSlot {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first: None,
            rest: Vec::new(),
        }
    }
}

/// A clone carries nothing: one leave is for one call.
impl Clone for LeaseSlot {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl CarryLease for LeaseSlot {
    fn put_lease(&mut self, lease: Lease) {
        if let Some(owner) = &lease.owner {
            drop(self.take_lease(owner.as_ref()));
        }
        if self.first.is_none() {
            self.first = Some(lease);
        } else {
            self.rest.push(lease);
        }
    }

    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
        if self
            .first
            .as_ref()
            .is_some_and(|lease| lease.is_from(owner))
        {
            return self.first.take();
        }
        let at = self.rest.iter().position(|lease| lease.is_from(owner))?;
        Some(self.rest.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Owner(Mutex<Vec<Ticket>>);

    impl LeaseOwner for Owner {
        fn give_back(&self, ticket: Ticket) {
            self.0.lock().unwrap().push(ticket);
        }
    }

    fn ticket(generation: u64) -> Ticket {
        Ticket {
            generation,
            probe: None,
        }
    }

    #[test]
    fn a_dropped_lease_goes_back_and_a_redeemed_one_does_not() {
        let owner = Arc::new(Owner::default());
        drop(Lease::new(owner.clone(), ticket(1)));
        assert_eq!(Lease::new(owner.clone(), ticket(2)).redeem(), ticket(2));
        assert_eq!(*owner.0.lock().unwrap(), [ticket(1)]);
    }

    #[test]
    fn each_owner_finds_its_own_lease() {
        let (one, two) = (Arc::new(Owner::default()), Arc::new(Owner::default()));
        let mut slot = LeaseSlot::new();
        slot.put_lease(Lease::new(one.clone(), ticket(1)));
        slot.put_lease(Lease::new(two.clone(), ticket(2)));
        assert_eq!(slot.take_lease(&*two).map(Lease::redeem), Some(ticket(2)));
        assert_eq!(slot.take_lease(&*one).map(Lease::redeem), Some(ticket(1)));
        assert!(slot.take_lease(&*one).is_none());
    }

    #[test]
    fn a_second_lease_of_one_owner_sends_the_first_back() {
        let owner = Arc::new(Owner::default());
        let mut slot = LeaseSlot::new();
        slot.put_lease(Lease::new(owner.clone(), ticket(1)));
        slot.put_lease(Lease::new(owner.clone(), ticket(2)));
        assert_eq!(*owner.0.lock().unwrap(), [ticket(1)]);
    }

    /// One of several owners with one taker.
    struct Member(&'static str);

    impl LeaseOwner for Member {
        fn give_back(&self, _: Ticket) {}

        fn lends_to(&self, taker: &dyn LeaseOwner) -> bool {
            let taker: &dyn Any = taker;
            let taker = taker.downcast_ref::<Self>();
            taker.is_some_and(|taker| taker.0 == self.0)
        }
    }

    #[test]
    fn an_owner_may_lend_to_others_of_its_family() {
        let mut slot = LeaseSlot::new();
        slot.put_lease(Lease::new(Arc::new(Member("ours")), ticket(1)));
        assert!(slot.take_lease(&Owner::default()).is_none());
        assert!(slot.take_lease(&Member("theirs")).is_none());
        let lease = slot.take_lease(&Member("ours")).unwrap();
        let (owner, redeemed) = lease.redeem_from();
        let owner: Arc<dyn Any + Send + Sync> = owner.unwrap();
        assert!(owner.is::<Member>());
        assert_eq!(redeemed, ticket(1));
    }

    #[test]
    fn a_clone_carries_no_lease() {
        let owner = Arc::new(Owner::default());
        let mut slot = LeaseSlot::new();
        slot.put_lease(Lease::new(owner.clone(), ticket(1)));
        assert!(slot.clone().take_lease(&*owner).is_none());
        assert!(slot.take_lease(&*owner).is_some());
    }
}
