//! How fast a card's memory is to who only reads (`kernels/read.cu`).

use std::sync::Arc;

use crate::error::Result;
use crate::gpu::{Gpu, Launch};

static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/read.fatbin"));

/// `ReadParams` of `kernels/read.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Params {
    data: u64,
    count: u64,
    out: u64,
}

/// The bytes that a second brings, the best of some passes over `bytes` of memory.
///
/// What is smaller than some gigabytes lies in the card's caches in part, and is faster.
pub fn read_bytes_per_second(gpu: &Arc<Gpu>, bytes: usize) -> Result<f64> {
    /// Of each number of blocks a multiprocessor; which is best differs between cards.
    const PASSES: usize = 4;
    let module = gpu.module(FATBIN)?;
    let kernel = module.kernel("read_memory")?;
    let (data, out) = (gpu.zeros(bytes)?, gpu.zeros(4)?);
    let mut best = 0_f64;
    for blocks in [1, 2, 4] {
        for _ in 0..PASSES {
            let count = (bytes / 16) as u64;
            let mut params = Params { data: data.address(), count, out: out.address() };
            let launch = Launch {
                blocks: [blocks * gpu.num_multiprocessors(), 1, 1],
                threads: 512,
                shared_bytes: 0,
                is_cooperative: false,
            };
            #[expect(unsafe_code, reason = "kernels are launched by address")]
            let seconds = gpu.seconds(|| {
                // SAFETY: the parameters are the kernel's, and the buffers live until the work is done.
                unsafe { module.launch(kernel, launch, &mut params) }
            })?;
            best = best.max(bytes as f64 / seconds);
        }
    }
    Ok(best)
}
