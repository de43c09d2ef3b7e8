//! How a long call tells what it does, and hears that it should stop.

use std::fmt;
use std::time::Duration;

use crate::error::Result;
use crate::hub_error::HubError;

/// What a long call is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It begins with this many bytes to move or read.
    Begin {
        /// What is done with them, as in "downloading".
        doing: &'static str,
        /// How many.
        bytes: u64,
    },
    /// It is through with this many more bytes.
    Done(u64),
    /// So many bytes that were done have to be moved again.
    Lost(u64),
    /// It waits for so long before it asks again: the hub is busy, or the connection broke.
    Waiting(Duration),
}

/// A caller's eyes on a long call, from any thread.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Hears of progress.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Says whether to stop; asked several times a second, and more often while bytes come in. A
    /// server that falls silent is noticed first, after [`Settings::timeout`](super::Settings::timeout).
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
        if (self.is_cancelled)() { Err(HubError::Cancelled.into()) } else { Ok(()) }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Watch")
    }
}
