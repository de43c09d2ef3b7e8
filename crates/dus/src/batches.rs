//! Tasks that one worker does in a row; of a file on the hub, with the bytes that are fetched for them.
//!
//! A file that is here is read task by task. A request to the hub takes longer than most tasks, so
//! there all tasks of a window share one, and each byte comes over the network once, however many
//! copies of it there will be. (Windows overlap, by less than a block, where a tensor changes for one
//! new layer and stays for another: it is cut in two ways.) Windows of a file that is to be proved by
//! its hash cover it from end to end.

use std::ops::Range;

use crate::conversion::BLOCK_BYTES;
use crate::open_source::OpenSource;
use crate::tasks::Task;

/// The length of what is fetched at once of files on the hub.
pub(crate) fn fetch_bytes(converts: bool) -> u64 {
    if converts { CONVERTED_FETCH_BYTES } else { 4 << 20 }
}

/// The same where something changes or is measured: what is made of it takes memory, too.
pub(crate) const CONVERTED_FETCH_BYTES: u64 = 2 << 20;

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

impl Batch {
    /// The bytes that are fetched for a hash only.
    pub(crate) fn hashed_only(&self) -> u64 {
        let fetch = self.fetch.as_ref().filter(|_| self.tasks.is_empty());
        fetch.map_or(0, |fetch| fetch.range.end - fetch.range.start)
    }
}

/// Puts `tasks`, which are in the order of their bytes, into batches.
///
/// Files on the hub are fetched by about `most` bytes; those of which `is_proved` says so from end to end, by tasks or not.
pub(crate) fn batches(
    tasks: &[Task],
    sources: &[Vec<OpenSource>],
    most: u64,
    is_proved: impl Fn(usize, usize) -> bool,
) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut first = 0;
    let files =
        sources.iter().enumerate().flat_map(|(m, files)| (0..files.len()).map(move |f| (m, f)));
    for (model, file) in files {
        let of_file = tasks[first..].iter();
        let num = of_file.take_while(|task| (task.model, task.file) == (model, file)).count();
        let range = first..first + num;
        match &sources[model][file] {
            OpenSource::Here(_) => {
                batches.extend(range.map(|t| Batch { tasks: t..t + 1, fetch: None }));
            }
            OpenSource::OnHub(hub_file) => {
                let length = is_proved(model, file).then_some(hub_file.bytes);
                let windows = fetched(&tasks[range], most, length);
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
fn fetched(tasks: &[Task], most: u64, length: Option<u64>) -> Vec<(Range<usize>, Range<u64>)> {
    let mut windows = Vec::new();
    let (mut t, mut begin) = (0, 0);
    while t < tasks.len() {
        let Range { mut start, mut end } = tasks[t].source;
        if length.is_some() && begin < start {
            // Of what no task needs, the end comes with what follows it, if there is room.
            while begin + most < start || (begin < start && begin + most < end) {
                let stop = start.min(begin + most);
                windows.push((t..t, begin..stop));
                begin = stop;
            }
            start = begin;
        }
        let first = t;
        t += 1;
        while let Some(Task { source, .. }) = tasks.get(t) {
            // What overlaps would be fetched twice.
            let most = if source.start < end { most + BLOCK_BYTES } else { most };
            if source.end.max(end) - start > most {
                break;
            }
            end = end.max(source.end);
            t += 1;
        }
        windows.push((first..t, start..end));
        begin = begin.max(end);
    }
    while let Some(length) = length.filter(|length| begin < *length) {
        let stop = length.min(begin + most);
        windows.push((t..t, begin..stop));
        begin = stop;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Work;

    const MIB: u64 = 1 << 20;

    fn copy(source: Range<u64>) -> Task {
        Task { model: 0, file: 0, source, work: Work::Copy(Vec::new()) }
    }

    fn block(source: Range<u64>) -> Task {
        Task { work: Work::Convert(0), ..copy(source) }
    }

    #[test]
    fn windows_are_as_long_as_may_be() {
        let tasks =
            [copy(100..MIB), copy(MIB..2 * MIB), copy(3 * MIB..4 * MIB), copy(4 * MIB..6 * MIB)];
        let expected = [(0..3, 100..4 * MIB), (3..4, 4 * MIB..6 * MIB)];
        assert_eq!(fetched(&tasks, 4 * MIB, None), expected);
    }

    #[test]
    fn what_is_cut_in_two_ways_shares_a_window() {
        let tasks = [copy(0..2 * MIB), block(MIB + 5..2 * MIB + 5), block(2 * MIB + 5..3 * MIB)];
        let expected = [(0..2, 0..2 * MIB + 5), (2..3, 2 * MIB + 5..3 * MIB)];
        assert_eq!(fetched(&tasks, 2 * MIB, None), expected);
    }

    #[track_caller]
    fn check_whole(tasks: &[Task], length: u64, most: u64) {
        let windows = fetched(tasks, most, Some(length));
        let (mut begin, mut t) = (0, 0);
        for (window, range) in windows {
            assert!(range.start <= begin && window.start == t);
            assert!(range.end - range.start <= most + BLOCK_BYTES);
            let of_window = tasks[window.clone()].iter().map(|task| &task.source);
            assert!(of_window.into_iter().all(|s| range.start <= s.start && s.end <= range.end));
            (begin, t) = (begin.max(range.end), window.end);
        }
        assert_eq!((begin, t), (length, tasks.len()));
    }

    #[test]
    fn a_whole_file_is_covered_without_gap() {
        check_whole(&[], 9 * MIB + 1, 4 * MIB);
        let copies = [
            copy(100..MIB),
            copy(20 * MIB + 7..24 * MIB),
            copy(24 * MIB..25 * MIB),
            copy(31 * MIB..32 * MIB),
        ];
        check_whole(&copies, 33 * MIB + 1, 4 * MIB);
        let mixed = [
            block(100..MIB + 100),
            copy(20 * MIB + 7..22 * MIB),
            block(20 * MIB + 7..21 * MIB + 7),
            block(21 * MIB + 7..22 * MIB + 7),
            copy(22 * MIB..24 * MIB),
            block(22 * MIB + 7..23 * MIB + 7),
        ];
        check_whole(&mixed, 33 * MIB + 1, 2 * MIB);
    }
}
