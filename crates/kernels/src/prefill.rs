//! Many tokens of one sequence: a prompt, or hidden states on their way through some layers.
//!
//! Rows go through the layers in chunks, so that what lies between two products takes as much memory for a
//! long prompt as for a short one. Matrices that are quantised are unpacked to 16 bits once a chunk.

use std::ops::Range;
use std::sync::Arc;

use crate::decode::{Cache, Decoder, Element, Shape, Weights};
use crate::error::Result;
use crate::flash::{Attention, Flash};
use crate::forms::{Form, Matrix};
use crate::gemm::{Gemm, Sizes, Sums};
use crate::gpu::{Buffer, Gpu, View};
use crate::rows::{Rows, Turn};

/// The rows that go through the layers together, at most.
pub const CHUNK: usize = 2048;

/// Refuses what nothing runs without: a card that the kernels for prompts were not compiled for, and a machine
/// without cuBLASLt.
pub fn check(gpu: &Arc<Gpu>) -> Result<()> {
    crate::gemm::find_library()?;
    Rows::new(gpu, Element::F16).map(|_| ())
}

/// The bytes that prompts take on a card beside weights and cache: what lies between a chunk's products, and
/// a matrix of 16 bits where there are quantised ones.
#[must_use]
pub fn work_bytes(shape: &Shape, has_quantised: bool) -> u64 {
    let Shape { hidden_size, intermediate_size, vocab_size, .. } = *shape;
    let halves = hidden_size + shape.qkv() + shape.queries() + intermediate_size;
    let widest = shape.qkv().max(2 * intermediate_size).max(vocab_size);
    let unpacked = if has_quantised { widest * hidden_size * 2 } else { 0 };
    let states = CHUNK * (2 * halves + 4 * hidden_size);
    (states + (CHUNK * intermediate_size * 4).max(vocab_size * 4) + unpacked) as u64
}

/// Hidden states on a card: rows of f32, one a token.
#[derive(Debug)]
pub struct Hidden {
    buffer: Buffer,
    num_rows: usize,
    width: usize,
}

impl Hidden {
    /// A copy of `numbers`, rows of `width`, on `gpu`.
    pub fn from_slice(gpu: &Arc<Gpu>, numbers: &[f32], width: usize) -> Result<Self> {
        assert!(numbers.len().is_multiple_of(width), "{} numbers of {width} a row", numbers.len());
        Ok(Self { buffer: gpu.upload(numbers)?, num_rows: numbers.len() / width, width })
    }

    /// How many rows there are.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// The rows, (`num_rows`, `hidden_size`).
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0; self.num_rows * self.width];
        self.buffer.read(0, &mut numbers)?;
        Ok(numbers)
    }

    /// What begins at a row.
    fn row(&self, row: usize) -> View<'_> {
        self.buffer.at(row * self.width * 4)
    }
}

/// What chunks need beside weights and cache.
#[derive(Debug)]
pub(crate) struct Prefill {
    rows: Rows,
    flash: Flash,
    product: Product,
    /// (chunk, `hidden_size`), and so on, of 16 bits.
    normed: Buffer,
    qkv: Buffer,
    attended: Buffer,
    /// Also logits, in f32.
    gate_up: Buffer,
    gated: Buffer,
}

/// Rows of a chunk, and the position of the first.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    x: View<'a>,
    num_rows: usize,
    start: usize,
}

/// A layer's part of a cache.
#[derive(Clone, Copy)]
struct Held<'a> {
    keys: View<'a>,
    values: View<'a>,
    capacity: usize,
}

/// Products with matrices of all forms.
#[derive(Debug)]
struct Product {
    gemm: Gemm,
    /// A matrix of 16 bits, where there are quantised ones.
    unpacked: Option<Buffer>,
}

impl Product {
    fn multiply(
        &mut self,
        rows: &Rows,
        (x, num_rows): (&Buffer, usize),
        matrix: &Matrix,
        (sums, out): (Sums, View<'_>),
    ) -> Result<()> {
        let numbers = match &self.unpacked {
            Some(unpacked) if matrix.form != Form::Dense => {
                rows.unpack(matrix, unpacked.at(0))?;
                unpacked
            }
            _ => &matrix.buffer,
        };
        let sizes = Sizes { rows: num_rows, outputs: matrix.outputs, inputs: matrix.inputs };
        self.gemm.multiply(x.at(0), numbers.at(0), sizes, sums, out)
    }
}

impl Prefill {
    fn new(decoder: &Decoder) -> Result<Self> {
        let Decoder { gpu, shape, element, weights, .. } = decoder;
        let halves = |width: usize| gpu.alloc(CHUNK * width * 2);
        let quantised = weights.matrices().filter(|matrix| matrix.form != Form::Dense);
        let unpacked = quantised.map(|matrix| matrix.outputs * matrix.inputs * 2).max();
        Ok(Self {
            rows: Rows::new(gpu, *element)?,
            flash: Flash::new(gpu, *element, shape.head_dim)?,
            product: Product {
                gemm: Gemm::new(gpu, *element)?,
                unpacked: unpacked.map(|bytes| gpu.alloc(bytes)).transpose()?,
            },
            normed: halves(shape.hidden_size)?,
            qkv: halves(shape.qkv())?,
            attended: halves(shape.queries())?,
            gate_up: gpu.alloc((CHUNK * shape.intermediate_size * 4).max(shape.vocab_size * 4))?,
            gated: halves(shape.intermediate_size)?,
        })
    }

    /// Takes a chunk through layer `number`.
    fn layer(
        &mut self,
        decoder: &Decoder,
        number: usize,
        Chunk { x, num_rows, start }: Chunk<'_>,
        Held { keys, values, capacity }: Held<'_>,
    ) -> Result<()> {
        let Self { rows, flash, product, normed, qkv, attended, gate_up, gated } = self;
        let Decoder { shape, angles, .. } = decoder;
        let layer = &decoder.weights.layers[number];
        let mut multiply = |x: &Buffer, matrix: &Matrix, sums: Sums, out: View<'_>| {
            product.multiply(rows, (x, num_rows), matrix, (sums, out))
        };
        let [qkv_bias, o_bias, gate_up_bias, down_bias] =
            layer.biases.each_ref().map(Option::as_deref);
        let (num_heads, num_kv_heads) = (shape.num_attention_heads, shape.num_key_value_heads);
        let eps = shape.rms_norm_eps;

        rows.norm(x, num_rows, &layer.input_norm, eps, normed.at(0))?;
        multiply(normed, &layer.qkv, Sums::Rounded, qkv.at(0))?;
        rows.turn(&Turn {
            qkv: qkv.at(0),
            bias: qkv_bias,
            norms: layer.qk_norm.as_ref().map(|(q, k)| (&**q, &**k)),
            eps,
            scale: 1.0,
            angles,
            keys,
            values,
            capacity,
            num_rows,
            start,
            num_heads,
            num_kv_heads,
            head_dim: shape.head_dim,
        })?;
        flash.attend(&Attention {
            queries: qkv.at(0),
            query_stride: shape.qkv(),
            keys,
            values,
            capacity,
            out: attended.at(0),
            num_rows,
            start,
            window: layer.window,
            num_heads,
            num_kv_heads,
        })?;
        multiply(attended, &layer.o, Sums::Added, x)?;
        if let Some(bias) = o_bias {
            rows.add_bias(x, num_rows, bias)?;
        }
        rows.norm(x, num_rows, &layer.post_norm, eps, normed.at(0))?;
        multiply(normed, &layer.gate_up, Sums::Rounded, gate_up.at(0))?;
        let intermediate = shape.intermediate_size;
        rows.gate(gate_up.at(0), num_rows, intermediate, gate_up_bias, gated.at(0))?;
        multiply(gated, &layer.down, Sums::Added, x)?;
        if let Some(bias) = down_bias {
            rows.add_bias(x, num_rows, bias)?;
        }
        Ok(())
    }
}

impl Decoder {
    /// Opens cuBLASLt and takes the memory that prompts need, which the first prompt would otherwise wait for.
    pub fn prepare_prefill(&mut self) -> Result<()> {
        self.with_prefill(|_, _| Ok(()))
    }

    /// Runs `tokens` behind what `cache` holds, and returns the states behind the last layer, without the
    /// final norm.
    pub fn prefill(&mut self, tokens: &[u32], cache: &mut Cache) -> Result<Hidden> {
        let hidden = self.embed(tokens)?;
        let hidden = self.forward_layers(0..self.weights.layers.len(), hidden, cache)?;
        cache.len += tokens.len();
        Ok(hidden)
    }

    /// The embeddings of `tokens`.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Hidden> {
        self.with_prefill(|decoder, prefill| {
            let width = decoder.shape.hidden_size;
            let buffer = decoder.gpu.alloc(tokens.len() * width * 4)?;
            prefill.rows.embed(&decoder.weights.embedding, tokens, buffer.at(0))?;
            Ok(Hidden { buffer, num_rows: tokens.len(), width })
        })
    }

    /// Takes rows through some layers. Their positions follow what `cache` holds, whose length stays: it is
    /// the caller's to move on when rows are through all of the layers.
    pub fn forward_layers(
        &mut self,
        layers: Range<usize>,
        hidden: Hidden,
        cache: &mut Cache,
    ) -> Result<Hidden> {
        let (num_rows, capacity) = (hidden.num_rows, cache.capacity);
        assert!(layers.end <= self.weights.layers.len(), "there is no layer {}", layers.end);
        assert!(cache.len + num_rows <= capacity, "the cache has no room for {num_rows}");
        assert_eq!(hidden.width, self.shape.hidden_size, "rows of another width");
        self.with_prefill(|decoder, prefill| {
            // What keys of a layer take, and values.
            let stride = decoder.shape.keys() * capacity * 2;
            for first in (0..num_rows).step_by(CHUNK) {
                for number in layers.clone() {
                    let held = Held {
                        keys: cache.buffer.at(number * 2 * stride),
                        values: cache.buffer.at((number * 2 + 1) * stride),
                        capacity,
                    };
                    let chunk = Chunk {
                        x: hidden.row(first),
                        num_rows: CHUNK.min(num_rows - first),
                        start: cache.len + first,
                    };
                    prefill.layer(decoder, number, chunk, held)?;
                }
            }
            Ok(())
        })?;
        Ok(hidden)
    }

    /// The logits of some rows: (rows, `vocab_size`).
    pub fn logits_of(&mut self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        assert!(rows.end <= hidden.num_rows, "there is no row {}", rows.end);
        let vocab_size = self.shape.vocab_size;
        let mut logits = vec![0.0; rows.len() * vocab_size];
        self.with_prefill(|decoder, prefill| {
            let Weights { norm, head, .. } = &decoder.weights;
            let room = (prefill.gate_up.bytes() / (vocab_size * 4)).min(CHUNK);
            for (i, logits) in logits.chunks_mut(room * vocab_size).enumerate() {
                let (x, num_rows) = (hidden.row(rows.start + i * room), logits.len() / vocab_size);
                let eps = decoder.shape.rms_norm_eps;
                prefill.rows.norm(x, num_rows, norm, eps, prefill.normed.at(0))?;
                let sums = (Sums::Stored, prefill.gate_up.at(0));
                prefill.product.multiply(&prefill.rows, (&prefill.normed, num_rows), head, sums)?;
                prefill.gate_up.read(0, logits)?;
            }
            Ok(())
        })?;
        Ok(logits)
    }

    /// Does `work` with what chunks need, which is there from the first time on.
    fn with_prefill<T>(
        &mut self,
        work: impl FnOnce(&Self, &mut Prefill) -> Result<T>,
    ) -> Result<T> {
        let mut prefill = match self.prefill.take() {
            Some(prefill) => prefill,
            None => Prefill::new(self)?,
        };
        let done = work(self, &mut prefill);
        self.prefill = Some(prefill);
        done
    }
}
