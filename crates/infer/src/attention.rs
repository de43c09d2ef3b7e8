//! Attention of a sequence's new tokens to all that its cache holds.
//!
//! Query heads that share a key head are rows of one product, so keys and values are never copied.
//! A query at position p sees the keys `p + 1 − W .. p + 1` of its window, as in transformers. On the
//! processor there is no mask tensor: each row's softmax runs over those keys.

use candle_core::{
    CpuStorage, CustomOp3, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor,
};
use candle_nn::ops::softmax_last_dim;
use rayon::prelude::*;

use crate::cache::LayerCache;
use crate::dot::{contiguous, dot};
use crate::exponential::softmax;
use crate::footprint::{MAX_CPU_SCORES, MAX_GPU_SCORES};
use crate::instructions::{self, Instructions, Loop};

/// Up to so many new tokens, keys and values are read straight from the cache, a row at a time.
const FEW: usize = 4;

/// Products below which one thread is done before another is awake.
const PARALLEL: usize = 1 << 16;

/// What the queries of one sequence see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// The position of the first query.
    pub(crate) start: usize,
    /// How many keys a query sees, itself included; `None`: all before it.
    pub(crate) window: Option<usize>,
}

impl View {
    /// The keys that the query at `position` sees.
    fn visible(self, position: usize) -> std::ops::Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }
}

/// Attends: `queries` (n, `num_attention_heads`, `head_dim`) to (n, `num_attention_heads · head_dim`).
///
/// The cache already holds the keys and values of these n tokens, as its last.
pub(crate) fn attend(queries: &Tensor, cache: &LayerCache, view: View) -> Result<Tensor> {
    let (n, num_heads, head_dim) = queries.dims3()?;
    let is_cpu = matches!(queries.device(), Device::Cpu);
    if n <= FEW && is_cpu && queries.dtype() == DType::F32 {
        let attended = queries.apply_op3_no_bwd(cache.keys(), cache.values(), &Few { view })?;
        return attended.reshape((n, num_heads * head_dim));
    }
    let max_scores = if is_cpu { MAX_CPU_SCORES } else { MAX_GPU_SCORES };
    let rows = (max_scores / (num_heads * cache.len())).clamp(1, n);
    let mut parts = Vec::with_capacity(n.div_ceil(rows));
    for first in (0..n).step_by(rows) {
        let queries = queries.narrow(0, first, rows.min(n - first))?;
        parts.push(many(&queries, cache, View { start: view.start + first, ..view })?);
    }
    if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, 0) }
}

/// Attends by two products, with the scores of all queries in memory.
fn many(queries: &Tensor, cache: &LayerCache, view: View) -> Result<Tensor> {
    let (n, num_heads, head_dim) = queries.dims3()?;
    let num_kv_heads = cache.keys().dims()[0];
    let group = num_heads / num_kv_heads;
    let first = view.visible(view.start).start;
    let num_keys = view.start + n - first;

    // 16-bit types are widened here: scores and their sums are f32, as in transformers' softmax.
    let dtype = queries.dtype();
    let keys = cache.keys().narrow(1, first, num_keys)?.to_dtype(DType::F32)?;
    let values = cache.values().narrow(1, first, num_keys)?.to_dtype(DType::F32)?;
    let mut queries = queries.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous()?;
    if !queries.device().is_cpu() {
        queries = (queries * f64::from(scale(head_dim)))?;
    }
    let queries = queries.reshape((num_kv_heads, group * n, head_dim))?;

    let scores = queries.matmul(&keys.t()?)?; // (num_kv_heads, group × n, num_keys)
    let weights = if scores.device().is_cpu() {
        scores.inplace_op1(&Softmax { view, first, n, scale: scale(head_dim) })?;
        scores
    } else {
        masked_softmax(&scores, view, first, n)?
    };
    let attended = weights.matmul(&values)?; // (num_kv_heads, group × n, head_dim)
    let attended = attended.reshape((num_heads, n, head_dim))?.transpose(0, 1)?;
    attended.reshape((n, num_heads * head_dim))?.to_dtype(dtype)
}

/// Makes weights of scores, (`num_kv_heads`, group × n, keys from position `first` on), by candle's own
/// operations, which all devices have.
fn masked_softmax(scores: &Tensor, view: View, first: usize, n: usize) -> Result<Tensor> {
    let (num_kv_heads, rows, num_keys) = scores.dims3()?;
    // A single query sees all keys that were taken.
    if n == 1 {
        return softmax_last_dim(scores);
    }
    let masked = scores.reshape((num_kv_heads * rows / n, n, num_keys))?.broadcast_add(&mask(
        view,
        first,
        n,
        num_keys,
        scores.device(),
    )?)?;
    softmax_last_dim(&masked)?.reshape((num_kv_heads, rows, num_keys))
}

/// Zero where a query sees a key, and −∞ elsewhere: (n, `num_keys`).
fn mask(view: View, first: usize, n: usize, num_keys: usize, device: &Device) -> Result<Tensor> {
    // Positions are exact in f32 up to 2²⁴. How far a query is behind a key: (n, num_keys).
    let positions = |from: usize, n: usize| Tensor::arange(from as f32, (from + n) as f32, device);
    let queries = positions(view.start - first, n)?.reshape((n, 1))?;
    let distance = queries.broadcast_sub(&positions(0, num_keys)?)?;
    let mut is_seen = distance.ge(0.0)?;
    if let Some(window) = view.window {
        is_seen = (is_seen * distance.lt(window as f64)?)?;
    }
    let shape = (n, num_keys);
    let hidden = Tensor::full(f32::NEG_INFINITY, shape, device)?;
    is_seen.where_cond(&Tensor::zeros(shape, DType::F32, device)?, &hidden)
}

fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// Scales rows of scores and makes weights of them; what a query does not see weighs nothing.
struct Softmax {
    view: View,
    /// The position of the first key.
    first: usize,
    /// The number of queries: row r is query `r % n`.
    n: usize,
    scale: f32,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "windowed-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(scores) = storage else { candle_core::bail!("scores must be f32") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("scores must be contiguous")
        };
        let num_keys = *layout.dims().last().unwrap_or(&1);
        let rows = scores[start..end].par_chunks_mut(num_keys).enumerate();
        rows.for_each(|(row, scores)| {
            let visible = self.view.visible(self.view.start + row % self.n);
            let (low, high) = (visible.start - self.first, visible.end - self.first);
            scores[..low].fill(0.0);
            scores[high..].fill(0.0);
            softmax(&mut scores[low..high], self.scale);
        });
        Ok(())
    }
}

/// Attention of a few queries, without products of matrices.
struct Few {
    view: View,
}

impl CustomOp3 for Few {
    fn name(&self) -> &'static str {
        "attend-few"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let queries = contiguous(queries, queries_layout)?;
        let keys = contiguous(keys, keys_layout)?;
        let values = contiguous(values, values_layout)?;
        let shape = queries_layout.shape().clone();
        let (n, num_heads, head_dim) = shape.dims3()?;
        let (num_kv_heads, capacity, _) = keys_layout.shape().dims3()?;
        let group = num_heads / num_kv_heads;
        let mut attended = vec![0.0_f32; n * num_heads * head_dim];
        let one = |(chunk, out): (usize, &mut [f32])| {
            // A chunk is the heads of one query that share a key head.
            let (query, kv_head) = (chunk / num_kv_heads, chunk % num_kv_heads);
            let visible = self.view.visible(self.view.start + query);
            let head = kv_head * capacity * head_dim;
            let seen = head + visible.start * head_dim..head + visible.end * head_dim;
            let queries = &queries[chunk * group * head_dim..][..group * head_dim];
            let (keys, values) = (&keys[seen.clone()], &values[seen]);
            instructions::run(OneGroup { queries, keys, values, head_dim, out });
        };
        let num_seen = self.view.visible(self.view.start + n - 1).len();
        if num_seen * num_heads * head_dim < PARALLEL {
            attended.chunks_mut(group * head_dim).enumerate().for_each(one);
        } else {
            attended.par_chunks_mut(group * head_dim).enumerate().for_each(one);
        }
        Ok((CpuStorage::F32(attended), shape))
    }
}

/// The heads that share `keys` and `values`, (visible, `head_dim`) each: `queries` to `out`.
struct OneGroup<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    head_dim: usize,
    out: &'a mut [f32],
}

impl Loop for OneGroup<'_> {
    #[expect(clippy::inline_always, reason = "only what is inlined is compiled for the set")]
    #[inline(always)]
    fn run(self) {
        let Self { queries, keys, values, head_dim, out } = self;
        let num_keys = keys.len() / head_dim;
        let group = queries.len() / head_dim;
        let with = Instructions::best();
        let mut scores = vec![0.0_f32; group * num_keys];
        for (position, key) in keys.chunks_exact(head_dim).enumerate() {
            for (head, query) in queries.chunks_exact(head_dim).enumerate() {
                scores[head * num_keys + position] = dot(with, query, key);
            }
        }
        for scores in scores.chunks_exact_mut(num_keys) {
            softmax(scores, scale(head_dim));
        }
        for (position, value) in values.chunks_exact(head_dim).enumerate() {
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let weight = scores[head * num_keys + position];
                for (out, &value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_softmaxes_agree() {
        for (start, n, window) in [(0, 5, None), (9, 4, Some(3)), (2, 6, Some(4)), (7, 1, Some(2))]
        {
            let view = View { start, window };
            let first = view.visible(start).start;
            let scores =
                Tensor::randn(0f32, 1.0, (2, 3 * n, start + n - first), &Device::Cpu).unwrap();
            let by_ops = masked_softmax(&scores, view, first, n).unwrap();
            scores.inplace_op1(&Softmax { view, first, n, scale: 1.0 }).unwrap();
            let pairs =
                [by_ops, scores].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            for (a, b) in pairs[0].iter().zip(&pairs[1]) {
                assert!((a - b).abs() < 1e-6, "{a} and {b} in {view:?}");
            }
        }
    }
}
