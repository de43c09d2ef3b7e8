//! How a long call tells what it does, and hears that it should stop.

use std::time::Duration;

use crate::error::{Error, Result};

/// What a long call is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It begins with this much to do.
    Begin {
        /// What is done, as in "loading".
        doing: &'static str,
        /// How many of the unit.
        total: u64,
        /// What is counted.
        unit: Unit,
    },
    /// It is through with this many more.
    Done(u64),
    /// So many that were done have to be done again.
    Lost(u64),
    /// It waits for so long before it asks the hub again, which is busy or out of reach.
    Waiting(Duration),
}

/// What progress is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of weights.
    Bytes,
    /// Tokens of a text.
    Tokens,
}

/// A caller's eyes on a long call, from any thread.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Hears of progress.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Says whether to stop.
    pub is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'_> {
    /// A watch that nobody looks through.
    #[must_use]
    pub fn nobody() -> Watch<'static> {
        Watch { progress: &|_| {}, is_cancelled: &|| false }
    }

    /// An error if the caller wants to stop.
    pub fn check(&self) -> Result<()> {
        if (self.is_cancelled)() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Tells that work begins.
    pub(crate) fn begin(&self, doing: &'static str, total: u64, unit: Unit) {
        (self.progress)(Progress::Begin { doing, total, unit });
    }

    /// Tells that `more` of it is done.
    pub(crate) fn done(&self, more: u64) {
        (self.progress)(Progress::Done(more));
    }
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
