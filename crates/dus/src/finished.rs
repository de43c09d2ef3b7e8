//! What of the new files is whole already: read back, checked, and not moved again.

use std::ops::Range;

use rayon::prelude::*;

use crate::arithmetic::CastReport;
use crate::error::Result;
use crate::journal::Stretch;
use crate::new_file::NewFile;
use crate::open_file::OpenFile;
use crate::open_source::OpenSource;
use crate::progress::{Progress, Watch};
use crate::shards::Move;

/// The length of a read.
const READ_BYTES: u64 = 1 << 20;

/// Stretches of the new files that need not be moved.
#[derive(Debug, Default)]
pub struct Finished {
    stretches: Vec<Stretch>,
    /// By shard: the ranges that they make up, sorted and apart.
    ranges: Vec<Vec<Range<u64>>>,
}

impl Finished {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reads `stretches` back from `shards`, on all cores, and keeps those that are what was meant.
    ///
    /// `moves` and `sources` tell what was meant by those without a checksum.
    pub fn check(
        mut stretches: Vec<Stretch>,
        moves: &[Move],
        sources: &[Vec<OpenSource>],
        shards: &[NewFile],
        watch: &Watch,
    ) -> Result<Self> {
        stretches.dedup();
        let length = |stretch: &Stretch| stretch.range.end - stretch.range.start;
        let bytes = stretches.iter().map(length).sum();
        (watch.progress)(Progress::Begin { doing: "checking", bytes });
        let is_whole = |buffers: &mut [Vec<u8>; 2], stretch: &Stretch| {
            watch.check()?;
            let is_whole = match (shards.get(stretch.shard), stretch.checksum) {
                (None, _) => false,
                (Some(shard), Some(checksum)) => {
                    has_checksum(shard.open(), &stretch.range, checksum, &mut buffers[0])
                }
                (Some(shard), None) => {
                    is_as_source(shard.open(), stretch, moves, sources, buffers, watch)?
                }
            };
            watch.moved(length(stretch));
            Ok(is_whole)
        };
        let checked = (stretches.par_iter())
            .map_init(<[Vec<u8>; 2]>::default, is_whole)
            .collect::<Result<Vec<bool>>>()?;
        let mut checked = checked.into_iter();
        stretches.retain(|_| checked.next() == Some(true));

        let mut ranges: Vec<Vec<Range<u64>>> = vec![Vec::new(); shards.len()];
        for Stretch { shard, range, .. } in &stretches {
            match ranges[*shard].last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges[*shard].push(range.clone()),
            }
        }
        Ok(Self { stretches, ranges })
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.stretches.is_empty()
    }

    /// The stretches.
    #[must_use]
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// What casts lost in them.
    #[must_use]
    pub fn cast(&self) -> CastReport {
        let mut cast = CastReport::default();
        for stretch in &self.stretches {
            cast += stretch.cast;
        }
        cast
    }

    /// Whether all of `range` of a shard is finished.
    #[must_use]
    pub fn covers(&self, shard: usize, range: &Range<u64>) -> bool {
        let Some(ranges) = self.ranges.get(shard) else { return false };
        let at = ranges.partition_point(|finished| finished.end < range.end);
        ranges.get(at).is_some_and(|f| f.start <= range.start && range.end <= f.end)
    }

    /// The parts of `run` that are left to do.
    #[must_use]
    pub fn rest_of(&self, run: &Move) -> Vec<Move> {
        let end = run.target + (run.source.end - run.source.start);
        let part = |target: Range<u64>| {
            let begin = run.source.start + (target.start - run.target);
            let source = begin..begin + (target.end - target.start);
            Move { source, target: target.start, ..run.clone() }
        };
        let mut rest = Vec::new();
        let mut begin = run.target;
        let ranges = self.ranges.get(run.shard).map_or(&[][..], Vec::as_slice);
        let first = ranges.partition_point(|finished| finished.end <= begin);
        for finished in &ranges[first..] {
            if finished.start >= end {
                break;
            }
            if begin < finished.start {
                rest.push(part(begin..finished.start));
            }
            begin = finished.end;
        }
        if begin < end {
            rest.push(part(begin..end));
        }
        rest
    }
}

/// Whether a stretch of a new file has this checksum. One that cannot be read has none, and is
/// written again.
fn has_checksum(file: &OpenFile, range: &Range<u64>, checksum: u32, buffer: &mut Vec<u8>) -> bool {
    let mut hasher = crc32fast::Hasher::new();
    let mut begin = range.start;
    while begin < range.end {
        buffer.resize(READ_BYTES.min(range.end - begin) as usize, 0);
        if file.read_exact_at(buffer, begin).is_err() {
            return false;
        }
        hasher.update(buffer);
        begin += buffer.len() as u64;
    }
    hasher.finalize() == checksum
}

/// Whether a stretch of a new file is, byte for byte, what was to be copied there.
fn is_as_source(
    file: &OpenFile,
    stretch: &Stretch,
    moves: &[Move],
    sources: &[Vec<OpenSource>],
    [found, expected]: &mut [Vec<u8>; 2],
    watch: &Watch,
) -> Result<bool> {
    let mut left = stretch.range.end - stretch.range.start;
    for run in moves.iter().filter(|run| run.shard == stretch.shard) {
        let end = run.target + (run.source.end - run.source.start);
        let mut begin = stretch.range.start.max(run.target);
        let end = stretch.range.end.min(end);
        while begin < end {
            let length = READ_BYTES.min(end - begin);
            found.resize(length as usize, 0);
            expected.resize(length as usize, 0);
            let source = run.source.start + (begin - run.target);
            sources[run.model][run.file].read_exact_at(expected, source, watch)?;
            if file.read_exact_at(found, begin).is_err() || found != expected {
                return Ok(false);
            }
            begin += length;
            left = left.saturating_sub(length);
        }
    }
    Ok(left == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These stretches of shard 1.
    fn finished(ranges: &[(u64, u64)]) -> Finished {
        let ranges = ranges.iter().map(|&(start, end)| start..end).collect();
        Finished { stretches: Vec::new(), ranges: vec![Vec::new(), ranges] }
    }

    #[test]
    fn the_rest_of_a_run() {
        #[track_caller]
        fn check(finished: &Finished, expected: &[(Range<u64>, u64)]) {
            let run = Move { model: 0, file: 0, source: 100..200, shard: 1, target: 1000 };
            let rest = finished.rest_of(&run).into_iter().map(|run| (run.source, run.target));
            assert_eq!(rest.collect::<Vec<_>>(), expected);
        }
        check(&Finished::nothing(), &[(100..200, 1000)]);
        check(&finished(&[(0, 1000), (1100, 2000)]), &[(100..200, 1000)]);
        check(&finished(&[(0, 2000)]), &[]);
        check(&finished(&[(1000, 1100)]), &[]);
        check(&finished(&[(900, 1010)]), &[(110..200, 1010)]);
        check(&finished(&[(1090, 1200)]), &[(100..190, 1000)]);
        let holes = finished(&[(1010, 1020), (1030, 1040)]);
        check(&holes, &[(100..110, 1000), (120..130, 1020), (140..200, 1040)]);
    }

    #[test]
    fn what_is_covered() {
        let finished = finished(&[(10, 20), (30, 40)]);
        let check = |range: Range<u64>, expected| {
            assert_eq!(finished.covers(1, &range), expected, "{range:?}");
        };
        check(10..20, true);
        check(12..13, true);
        check(35..40, true);
        check(9..12, false);
        check(19..31, false);
        check(20..30, false);
        check(39..41, false);
        assert!(!finished.covers(0, &(10..20)) && !finished.covers(7, &(10..20)));
    }
}
