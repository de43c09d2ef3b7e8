//! Tasks that one worker does in a row; of a file on the hub, with the bytes that are fetched for them.
//!
//! A file that is here is read task by task. A request to the hub takes longer than most tasks, so
//! there all tasks of a window share one, and each byte comes over the network once, however many
//! copies of it there will be. Where nothing of a file was fetched before, the windows cover it from
//! end to end and its hash is made on the way: that is the only proof that it is the hub's file.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use checkpoint::hub::FileHash;

use crate::error::Result;
use crate::open_source::{HubFile, OpenSource};
use crate::progress::Watch;
use crate::tasks::Task;

/// The length of what is fetched at once.
pub(crate) const FETCH_BYTES: u64 = 4 << 20;

/// Tasks in a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Which; none where bytes are fetched for a hash only.
    pub(crate) tasks: Range<usize>,
    /// What is fetched of a file on the hub.
    pub(crate) fetch: Option<Fetch>,
}

/// A stretch of a file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) model: usize,
    pub(crate) file: usize,
    pub(crate) range: Range<u64>,
}

/// Puts `tasks`, which are in the order of their bytes, into batches.
///
/// With `whole`, files on the hub are fetched from end to end.
pub(crate) fn batches(tasks: &[Task], sources: &[Vec<OpenSource>], whole: bool) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut first = 0;
    while first < tasks.len() {
        let Task { model, file, .. } = tasks[first];
        let of_file = tasks[first..].iter();
        let num = of_file.take_while(|task| (task.model, task.file) == (model, file)).count();
        let range = first..first + num;
        match &sources[model][file] {
            OpenSource::Here(_) => {
                batches.extend(range.map(|t| Batch { tasks: t..t + 1, fetch: None }));
            }
            OpenSource::OnHub(hub_file) => {
                let windows = fetched(&tasks[range], whole.then_some(hub_file.bytes));
                batches.extend(windows.into_iter().map(|(window, range)| Batch {
                    tasks: first + window.start..first + window.end,
                    fetch: Some(Fetch { model, file, range }),
                }));
            }
        }
        first += num;
    }
    batches
}

/// Cuts the tasks of a file into windows; with its length, what no task needs is fetched, too.
fn fetched(tasks: &[Task], length: Option<u64>) -> Vec<(Range<usize>, Range<u64>)> {
    let mut windows = Vec::new();
    let mut begin = 0;
    let fill = |windows: &mut Vec<_>, t: usize, mut begin: u64, end: u64| {
        while begin < end {
            let stop = end.min(begin + FETCH_BYTES);
            windows.push((t..t, begin..stop));
            begin = stop;
        }
    };
    let mut t = 0;
    while t < tasks.len() {
        let window = tasks[t].source.start / FETCH_BYTES;
        let is_in = |task: &&Task| task.source.start / FETCH_BYTES == window;
        let num = tasks[t..].iter().take_while(is_in).count();
        let mut start = tasks[t].source.start;
        let end = tasks[t..t + num].iter().map(|task| task.source.end).max().unwrap_or(start);
        if length.is_some() {
            // A short gap comes with what follows it, a long one in windows of its own.
            if start.saturating_sub(begin) > FETCH_BYTES {
                fill(&mut windows, t, begin, start);
            } else {
                start = start.min(begin);
            }
        }
        windows.push((t..t + num, start..end));
        begin = begin.max(end);
        t += num;
    }
    if let Some(length) = length {
        fill(&mut windows, tasks.len(), begin, length);
    }
    windows
}

/// The hash of a file whose bytes come in from several workers.
#[derive(Debug)]
pub(crate) struct InOrder {
    /// How far the hash is, and the hash.
    state: Mutex<(u64, FileHash)>,
    moved: Condvar,
}

impl InOrder {
    /// Begins the hash of `file`.
    pub(crate) fn new(file: &HubFile) -> Result<Self> {
        Ok(Self { state: Mutex::new((0, file.hash()?)), moved: Condvar::new() })
    }

    /// Takes in the bytes of `range` when all before it have been; gives up if another worker failed.
    ///
    /// Its beginning may have been in an earlier range: a tensor that changes for one new layer and
    /// stays for another is cut in two ways.
    pub(crate) fn update(
        &self,
        range: &Range<u64>,
        bytes: &[u8],
        failed: &AtomicBool,
        watch: &Watch,
    ) -> Result<()> {
        let mut state = self.lock();
        while state.0 < range.start {
            watch.check()?;
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let waited = self.moved.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let known = (state.0 - range.start) as usize;
        if let Some(new) = bytes.get(known..) {
            state.1.update(new);
            state.0 = range.end;
        }
        self.moved.notify_all();
        Ok(())
    }

    /// Checks, when all bytes are in, that they are the file that the hub lists.
    pub(crate) fn check(self) -> Result<()> {
        let (_, hash) = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(hash.check()?)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, FileHash)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Work;

    const MIB: u64 = 1 << 20;

    fn task(source: Range<u64>) -> Task {
        Task { model: 0, file: 0, source, work: Work::Copy(Vec::new()) }
    }

    #[test]
    fn windows_hold_all_tasks_that_begin_in_them() {
        let tasks =
            [task(100..MIB), task(MIB..2 * MIB), task(3 * MIB..5 * MIB), task(5 * MIB..6 * MIB)];
        let expected = [(0..3, 100..5 * MIB), (3..4, 5 * MIB..6 * MIB)];
        assert_eq!(fetched(&tasks, None), expected);
    }

    #[test]
    fn a_whole_file_is_covered_without_gap() {
        let tasks = [
            task(100..MIB),
            task(20 * MIB + 7..21 * MIB),
            task(21 * MIB..24 * MIB),
            task(23 * MIB..25 * MIB),
            task(24 * MIB..26 * MIB),
        ];
        let length = 33 * MIB + 1;
        let windows = fetched(&tasks, Some(length));
        let (mut begin, mut t) = (0, 0);
        for (tasks, range) in windows {
            assert!(range.start <= begin && tasks.start == t);
            assert!(range.end - range.start <= 2 * FETCH_BYTES);
            (begin, t) = (range.end, tasks.end);
        }
        assert_eq!((begin, t), (length, tasks.len()));
    }
}
