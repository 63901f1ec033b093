//! What it takes to install programs that tests need: once, however many processes ask.

mod once;
mod program;
mod target;

pub(crate) use once::{IoError, once};
pub(crate) use program::{on_path, run};
pub(crate) use target::directory as target_directory;
