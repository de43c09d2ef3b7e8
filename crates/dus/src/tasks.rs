//! The work of a build, cut into stretches of the sources that are done in the order of their bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::conversion::{Conversion, Target};
use crate::finished::Finished;
use crate::shards::Move;
use crate::splice::Model;

/// Windows of a source that are copied to all their places before the next one is begun.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;

/// A stretch of a source file and what becomes of it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) model: usize,
    pub(crate) file: usize,
    pub(crate) source: Range<u64>,
    pub(crate) work: Work,
}

/// What becomes of it.
#[derive(Debug)]
pub(crate) enum Work {
    /// Pieces of it go to their places as they are.
    Copy(Vec<Piece>),
    /// It is a block of the conversion with this index.
    Convert(usize),
}

/// A stretch of a source file, the shard that it goes to, and where in it.
pub(crate) type Piece = (Range<u64>, usize, u64);

/// Cuts moves into windows, each with all the places that parts of it go to; `window_bytes` is their
/// length in the file of a model.
pub(crate) fn windows(moves: Vec<Move>, window_bytes: impl Fn(usize, usize) -> u64) -> Vec<Task> {
    let mut pieces: BTreeMap<(usize, usize, u64), Vec<Piece>> = BTreeMap::new();
    for run in moves {
        let mut begin = run.source.start;
        let window_bytes = window_bytes(run.model, run.file);
        while begin < run.source.end {
            let window = begin / window_bytes;
            let end = run.source.end.min((window + 1) * window_bytes);
            let target = run.target + (begin - run.source.start);
            pieces.entry((run.model, run.file, window)).or_default().push((
                begin..end,
                run.shard,
                target,
            ));
            begin = end;
        }
    }
    let mut tasks = Vec::new();
    for ((model, file, _), pieces) in pieces {
        let begin = pieces.iter().map(|(source, ..)| source.start).min().unwrap_or(0);
        let end = pieces.iter().map(|(source, ..)| source.end).max().unwrap_or(0);
        tasks.push(Task { model, file, source: begin..end, work: Work::Copy(pieces) });
    }
    tasks
}

/// Cuts conversions into blocks, without those that are finished at all their places; with the number
/// of bytes that are.
pub(crate) fn blocks(
    conversions: &[Conversion],
    models: &[Model],
    finished: &Finished,
) -> (Vec<Task>, u64) {
    let (mut tasks, mut kept) = (Vec::new(), 0);
    for (i, conversion) in conversions.iter().enumerate() {
        let tensor = &models[conversion.model].checkpoint.tensors()[conversion.source];
        let mut begin = tensor.range.start;
        while begin < tensor.range.end {
            let end = tensor.range.end.min(begin + conversion.block_bytes());
            let block = conversion.block(begin - tensor.range.start, end - begin);
            let is_finished = |target: &&Target| {
                finished.covers(target.shard, &conversion.written_to(block, target))
            };
            let num_finished = conversion.targets.iter().filter(is_finished).count();
            kept += (num_finished * block.1) as u64;
            if num_finished < conversion.targets.len() {
                tasks.push(Task {
                    model: conversion.model,
                    file: tensor.file,
                    source: begin..end,
                    work: Work::Convert(i),
                });
            }
            begin = end;
        }
    }
    (tasks, kept)
}
