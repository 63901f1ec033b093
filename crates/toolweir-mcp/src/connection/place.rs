//! A place among as many connections as there may be, taken when a transport is about to be used.

use std::sync::{Arc, Mutex};

use super::lock;

/// Where an attempt to connect asks for its place.
pub(super) trait Places: Send + Sync {
    /// How many there are.
    fn most(&self) -> usize;

    /// Whether one could be taken now.
    #[cfg(feature = "http")]
    fn is_there(&self) -> bool;

    /// Takes the place, for which an idle connection may have to go; `false` if none can. Once taken it
    /// is kept until it is [left](Self::leave).
    fn take(&self) -> bool;

    /// The attempt is over: from now on only a connection counts.
    fn leave(&self);
}

/// One attempt's place. It is left with the last clone.
#[derive(Clone)]
pub(super) struct Place(Arc<Inner>);

struct Inner {
    places: Option<Arc<dyn Places>>,
    taken: Mutex<Option<bool>>,
}

impl Place {
    /// Without `places` there is a place for whoever asks.
    pub(super) fn new(places: Option<Arc<dyn Places>>) -> Self {
        let taken = Mutex::default();
        Self(Arc::new(Inner { places, taken }))
    }

    /// Takes the place, if it was not taken before; `false` if there is none.
    pub(super) fn take(&self) -> bool {
        if let Some(known) = *lock(&self.0.taken) {
            return known;
        }
        let got = self.0.places.as_ref().is_none_or(|places| places.take());
        *lock(&self.0.taken) = Some(got);
        got
    }

    /// Whether it is taken, or could be. Where it could not, it is as if it was asked for.
    #[cfg(feature = "http")]
    pub(super) fn is_there(&self) -> bool {
        if let Some(known) = *lock(&self.0.taken) {
            return known;
        }
        let is_there = self
            .0
            .places
            .as_ref()
            .is_none_or(|places| places.is_there());
        if !is_there {
            *lock(&self.0.taken) = Some(false);
        }
        is_there
    }

    /// Whether it was asked for in vain.
    pub(super) fn is_refused(&self) -> bool {
        *lock(&self.0.taken) == Some(false)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let (Some(places), Some(true)) = (&self.places, *lock(&self.taken)) {
            places.leave();
        }
    }
}
