//! The lock of state that user code never runs under.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. What a panic left behind is used as it is: nothing here breaks halfway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
