//! One decoder layer, on one page.
//!
//! Rows of activations are the tokens of all sequences, one after the other: nothing is padded. Only
//! attention asks which rows are whose.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::rms_norm;
use candle_nn::rotary_emb::rope_thd;

use crate::attention::{self, View};
use crate::cache::KvCache;
use crate::feed_forward::FeedForward;
use crate::weight::{Linear, forward_all};

/// A decoder layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) input_layernorm: Tensor,
    pub(crate) attention: Attention,
    pub(crate) post_attention_layernorm: Tensor,
    pub(crate) feed_forward: FeedForward,
    pub(crate) rms_norm_eps: f32,
}

/// A layer's attention block.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    /// The weights of the norms of queries and keys, (`head_dim`) each.
    pub(crate) qk_norm: Option<(Tensor, Tensor)>,
    pub(crate) head_dim: usize,
    /// How many keys a query sees, itself included; `None`: all before it.
    pub(crate) window: Option<usize>,
}

/// A sequence's rows among the activations, and its cache.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) num_tokens: usize,
    pub(crate) cache: &'a mut KvCache,
}

/// The cosines and sines of all rows, (n, `head_dim / 2`) each, in f32.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
}

impl Layer {
    /// The bytes of its matrices.
    pub(crate) fn bytes(&self) -> u64 {
        let (attention, feed_forward) = (&self.attention, &self.feed_forward);
        let matrices = [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &feed_forward.gate_proj,
            &feed_forward.up_proj,
            &feed_forward.down_proj,
        ];
        matrices.iter().map(|linear| linear.weight.bytes()).sum()
    }

    /// (n, `hidden_size`) to the same; the caches hold the rows' keys and values as layer `number`'s.
    pub(crate) fn forward(
        &self,
        number: usize,
        x: &Tensor,
        turns: &Turns,
        rows: &mut [Rows],
    ) -> Result<Tensor> {
        let eps = self.rms_norm_eps;
        let normed = rms_norm(x, &self.input_layernorm, eps)?;
        let x = (x + self.attention.forward(number, &normed, turns, rows, eps)?)?;
        let normed = rms_norm(&x, &self.post_attention_layernorm, eps)?;
        &x + self.feed_forward.forward(&normed)?
    }
}

impl Attention {
    fn forward(
        &self,
        number: usize,
        x: &Tensor,
        turns: &Turns,
        rows: &mut [Rows],
        eps: f32,
    ) -> Result<Tensor> {
        let heads = |x: Tensor| x.reshape((x.dims()[0], (), self.head_dim));
        let projections = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [queries, keys, values] = forward_all(projections, x)?;
        let mut queries = heads(queries)?; // (n, num_attention_heads, head_dim)
        let mut keys = heads(keys)?; // (n, num_key_value_heads, head_dim)
        let values = heads(values)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            queries = rms_norm(&queries, q_norm, eps)?;
            keys = rms_norm(&keys, k_norm, eps)?;
        }
        let (queries, keys) = (turns.turn(&queries)?, turns.turn(&keys)?);

        let mut attended = Vec::with_capacity(rows.len());
        let mut first = 0;
        for rows in rows {
            let cache = rows.cache.layer(number);
            let view = View { start: cache.len(), window: self.window };
            let own = |x: &Tensor| x.narrow(0, first, rows.num_tokens);
            cache.append(&own(&keys)?, &own(&values)?)?;
            attended.push(attention::attend(&own(&queries)?, cache, view)?);
            first += rows.num_tokens;
        }
        let attended =
            if attended.len() == 1 { attended.remove(0) } else { Tensor::cat(&attended, 0)? };
        self.o_proj.forward(&attended) // (n, hidden_size)
    }
}

impl Turns {
    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self { cos: self.cos.to_device(device)?, sin: self.sin.to_device(device)? })
    }

    /// Turns heads by their positions: (n, heads, `head_dim`) to the same, in f32 inside.
    fn turn(&self, heads: &Tensor) -> Result<Tensor> {
        let x = heads.to_dtype(DType::F32)?.unsqueeze(0)?;
        rope_thd(&x, &self.cos, &self.sin)?.squeeze(0)?.to_dtype(heads.dtype())
    }
}
