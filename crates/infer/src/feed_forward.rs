//! The feed-forward block: `down(silu(gate(x)) · up(x))` (Shazeer 2020).

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::dot::contiguous;
use crate::exponential::silu_times;
use crate::weight::{Linear, forward_all};

/// Elements below which one thread is done before another is awake.
const BLOCK: usize = 1 << 12;

/// A feed-forward block.
#[derive(Debug, Clone)]
#[expect(clippy::struct_field_names, reason = "the names are Hugging Face's")]
pub(crate) struct FeedForward {
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
}

impl FeedForward {
    /// (n, `hidden_size`) to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [gate, up] = forward_all([&self.gate_proj, &self.up_proj], x)?; // (n, intermediate_size)
        self.down_proj.forward(&gated(&gate, &up)?)
    }
}

/// `silu(gate) · up`.
fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dtype() == DType::F32 && matches!(gate.device(), Device::Cpu) {
        return gate.apply_op2_no_bwd(up, &Gated);
    }
    gate.silu()? * up
}

/// candle's `silu` and product are two passes on one core; this is one pass on all.
struct Gated;

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (contiguous(gate, gate_layout)?, contiguous(up, up_layout)?);
        let mut product = vec![0.0_f32; gate.len()];
        let blocks = product.par_chunks_mut(BLOCK).zip(gate.par_chunks(BLOCK));
        blocks.zip(up.par_chunks(BLOCK)).for_each(|((product, gate), up)| {
            silu_times(gate, up, product);
        });
        Ok((CpuStorage::F32(product), gate_layout.shape().clone()))
    }
}
