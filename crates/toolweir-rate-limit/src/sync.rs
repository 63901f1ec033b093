//! What threads share, from the standard library or, where a model checks it, from loom. The pointer
//! to it is the standard library's in both, because methods are called through it.

pub(crate) use std::sync::Arc;

#[cfg(not(toolweir_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(toolweir_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
