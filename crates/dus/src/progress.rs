//! How a long call tells what it does, and hears that it should stop.

use std::time::Duration;

use crate::error::{Error, Result};

/// What a long call is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It begins with this many bytes to move or compare.
    Begin {
        /// What is done with them, as in "building".
        doing: &'static str,
        /// How many.
        bytes: u64,
    },
    /// It is through with this many more bytes.
    Done(u64),
    /// So many bytes that were done have to be moved again.
    Lost(u64),
    /// It waits for the disk to have everything.
    Syncing,
    /// It waits for so long before it asks the hub again, which is busy or out of reach.
    Waiting(Duration),
}

/// What there is to say while the hub is left alone for so long.
#[must_use]
pub fn waiting_words(left: Duration) -> String {
    match left.as_secs_f64().ceil() {
        0.0 => "asking the hub again".to_owned(),
        seconds => format!("the hub is busy or out of reach; it is asked again in {seconds} s"),
    }
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

    /// Tells that `bytes` more are done.
    pub(crate) fn moved(&self, bytes: u64) {
        (self.progress)(Progress::Done(bytes));
    }
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_counted_down() {
        let busy = |n| format!("the hub is busy or out of reach; it is asked again in {n} s");
        assert_eq!(waiting_words(Duration::from_secs(90)), busy(90));
        assert_eq!(waiting_words(Duration::from_millis(1)), busy(1));
        assert_eq!(waiting_words(Duration::ZERO), "asking the hub again");
    }
}
