//! How fast a device reads its own memory, and multiplies: what decoding and prompts can reach at best.

use std::time::Instant;

use candle_core::{DType, Device};
use rayon::prelude::*;

use crate::device::Target;
use crate::error::Result;
use crate::memory;
use crate::progress::Watch;

/// What is read: far more than the caches of any processor hold.
const MAX_BYTES: usize = 1 << 30;

/// Passes; the fastest counts, as anything else on the machine only slows them.
const PASSES: usize = 5;

/// Numbers that a thread reads at once: 1 MiB.
const BLOCK: usize = 1 << 17;

/// The bytes a second that `target` reads, by all that it has; `None` where there is no kernel for it.
pub fn read_bytes_per_second(target: &Target, watch: &Watch) -> Result<Option<f64>> {
    match target {
        Target::Candle(Device::Cpu) => of_cpu(watch).map(Some),
        Target::Candle(_) => Ok(None),
        Target::Card(gpu) => Ok(Some(gpu.read_bytes_per_second()?)),
    }
}

/// The operations a second that a large product of matrices of 16 bits comes to on `target`, of the type `dtype`;
/// `None` where that is not measured.
pub fn flops_per_second(target: &Target, dtype: DType) -> Result<Option<f64>> {
    match target {
        Target::Candle(_) => Ok(None),
        Target::Card(gpu) => Ok(Some(gpu.flops_per_second(dtype == DType::BF16)?)),
    }
}

fn of_cpu(watch: &Watch) -> Result<f64> {
    let free = memory::free_bytes().map_or(MAX_BYTES, |bytes| bytes as usize / 4);
    let len = (MAX_BYTES.min(free) / 8).max(BLOCK);
    // Written by the threads that read: pages that nobody wrote are all one page.
    let mut numbers = vec![0_u64; len];
    numbers.par_chunks_mut(BLOCK).try_for_each(|block| {
        for (i, number) in block.iter_mut().enumerate() {
            *number = i as u64;
        }
        watch.check()
    })?;
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let begin = Instant::now();
        let sums = numbers.par_chunks(BLOCK).map(|block| watch.check().map(|()| sum(block)));
        let sum = sums.try_reduce(|| 0, |a, b| Ok(a.wrapping_add(b)))?;
        std::hint::black_box(sum);
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok((len * 8) as f64 / best)
}

/// A sum in eight lanes, which the compiler keeps in vector registers.
fn sum(block: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    for numbers in block.as_chunks::<8>().0 {
        for (sum, &number) in sums.iter_mut().zip(numbers) {
            *sum = sum.wrapping_add(number);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn who_asks_to_stop_is_heard_before_a_pass_is_over() {
        let watch = Watch { progress: &|_| {}, is_cancelled: &|| true };
        let begin = Instant::now();
        let measured = read_bytes_per_second(&Target::CPU, &watch);
        assert!(matches!(measured, Err(Error::Cancelled)));
        assert!(begin.elapsed().as_secs_f64() < 1.0);
    }
}
