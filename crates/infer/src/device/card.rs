//! NVIDIA's GPUs, with kernels of our own.

use std::sync::Arc;

/// Whether they are in this program.
pub(super) const IS_BUILT: bool = true;

/// A GPU.
#[derive(Debug, Clone)]
pub struct Gpu {
    number: usize,
    pub(crate) gpu: Arc<kernels::Gpu>,
}

impl Gpu {
    pub(super) fn open(number: usize) -> Result<Self, String> {
        let gpu = kernels::Gpu::open(number).map_err(|error| error.to_string())?;
        Ok(Self { number, gpu })
    }

    /// The bytes a second that it reads of its memory.
    pub(crate) fn read_bytes_per_second(&self) -> Result<f64, kernels::Error> {
        /// Far more than its caches hold, where there is so much.
        const MOST: u64 = 4 << 30;
        let bytes = (self.gpu.free_bytes()? / 2).min(MOST) as usize;
        kernels::bandwidth::read_bytes_per_second(&self.gpu, bytes)
    }

    pub(super) fn name(&self) -> String {
        format!("cuda:{}", self.number)
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.gpu.free_bytes().ok()
    }

    /// Whether it computes with bf16: cards from compute capability 8.0 on (A100) do.
    pub(super) fn has_bf16(&self) -> bool {
        self.gpu.compute_capability().is_ok_and(|(major, _)| major >= 8)
    }
}
