//! A step of a decoder for one to eight sequences, in one launch (`kernels/decode.cuh`).

use std::mem::offset_of;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::forms::{Form, Matrix};
use crate::gpu::{Buffer, Gpu, Kernel, Launch, Module, Plain};
use crate::prefill::{Hidden, Prefill};

static DENSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decode.fatbin"));
static BLOCKS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decode_blocks.fatbin"));

/// Sequences that take a step together, at most.
pub const MAX_BATCH: usize = 8;

/// Threads of a block, and query heads of an item of attention: as in `kernels/block.cuh` and `kernels/attend.cuh`.
const BLOCK_THREADS: u32 = 288;
const HEADS: usize = 4;
const MAX_STAGES: usize = 16;
const TILE: usize = 16;
/// Tiles whose sums are on their way from warp to warp at once, and these warps.
const SUMS: usize = 2;
const WARPS: usize = 8;
/// Stages of weights on their way that a block should have: fewer sequences take a step together rather than with less.
const MIN_STAGES: usize = 2;
/// Columns of activations that a block holds at once where it has no room for all.
const SLICE: usize = 2048;
/// What attention needs of a block's shared memory.
const ATTENTION_BYTES: usize = 24 << 10;
/// What activations that may come a slice at a time take of it at most: the rest holds weights on their way.
const MAX_ACTIVATION_BYTES: usize = 96 << 10;

/// The type of activations, keys and values, and of matrices that are not quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 16 bits, of IEEE 754.
    F16,
    /// 16 bits with the range of 32; cards from compute capability 8.0 on have it.
    BF16,
}

/// The sizes of a decoder, under the names that `config.json` has for them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the names are Hugging Face's")]
pub struct Shape {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f32,
}

impl Element {
    /// Its name in those of kernels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

impl Shape {
    pub(crate) fn queries(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    pub(crate) fn keys(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Rows of query, key and value projections together.
    pub(crate) fn qkv(&self) -> usize {
        self.queries() + 2 * self.keys()
    }

    /// Why the kernels do not have it, if so.
    #[must_use]
    pub fn unsupported(&self) -> Option<String> {
        if ![32, 64, 96, 128].contains(&self.head_dim) {
            return Some(format!("heads are {} wide, not 32, 64, 96 or 128", self.head_dim));
        }
        let widths = [self.hidden_size, self.intermediate_size, self.queries()];
        let odd = widths.into_iter().find(|width| !width.is_multiple_of(32));
        odd.map(|width| format!("a width of {width} is no multiple of 32"))
    }
}

/// The weights of a layer.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Queries', keys' and values' projections, one behind the other: (queries + 2 · keys, `hidden_size`).
    pub qkv: Matrix,
    /// (`hidden_size`, queries).
    pub o: Matrix,
    /// The gate's projection, and `up`'s behind it: (2 · `intermediate_size`, `hidden_size`).
    pub gate_up: Matrix,
    /// (`hidden_size`, `intermediate_size`).
    pub down: Matrix,
    /// The norm before attention, (`hidden_size`) in f32, as all vectors are.
    pub input_norm: Arc<Buffer>,
    /// The norm before the feed-forward block, (`hidden_size`).
    pub post_norm: Arc<Buffer>,
    /// The norms of each head's queries and keys, (`head_dim`) each.
    pub qk_norm: Option<(Arc<Buffer>, Arc<Buffer>)>,
    /// The biases of the four matrices.
    pub biases: [Option<Arc<Buffer>>; 4],
    /// How many positions a token sees, itself included; `None`: all before it.
    pub window: Option<usize>,
}

/// The weights of a decoder.
#[derive(Debug, Clone)]
pub struct Weights {
    /// (`vocab_size`, `hidden_size`).
    pub embedding: Matrix,
    /// The layers.
    pub layers: Vec<LayerWeights>,
    /// The final norm, (`hidden_size`).
    pub norm: Arc<Buffer>,
    /// (`vocab_size`, `hidden_size`).
    pub head: Matrix,
}

/// The keys and values of a sequence on a card.
#[derive(Debug)]
pub struct Cache {
    pub(crate) buffer: Buffer,
    pub(crate) capacity: usize,
    /// What a position takes of a head.
    row_bytes: usize,
    /// How many positions are held.
    pub len: usize,
}

impl Cache {
    /// Room for `capacity` positions in `num_layers` layers.
    pub fn new(gpu: &Arc<Gpu>, shape: &Shape, num_layers: usize, capacity: usize) -> Result<Self> {
        let elements = num_layers * 2 * shape.keys() * capacity;
        let row_bytes = shape.head_dim * 2;
        Ok(Self { buffer: gpu.zeros(elements * 2)?, capacity, row_bytes, len: 0 })
    }

    /// A copy of what is held, with room for `capacity` positions.
    pub fn with_capacity(&self, capacity: usize) -> Result<Self> {
        let rows = self.buffer.bytes() / (self.capacity * self.row_bytes);
        let held = self.capacity.min(capacity) * self.row_bytes;
        let to = self.buffer.gpu().zeros(rows * capacity * self.row_bytes)?;
        let pitches = (self.capacity * self.row_bytes, capacity * self.row_bytes);
        self.buffer.copy_rows(&to, pitches, held, rows)?;
        Ok(Self { buffer: to, capacity, row_bytes: self.row_bytes, len: self.len })
    }

    /// How many positions there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// A matrix as the kernel has it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawMatrix {
    data: u64,
    row_bytes: i32,
    form: i32,
}

impl RawMatrix {
    pub(crate) fn of(matrix: &Matrix) -> Self {
        Self {
            data: matrix.buffer.address(),
            row_bytes: matrix.form.row_bytes(matrix.inputs) as i32,
            form: matrix.form.number(),
        }
    }
}

/// `Layer` of `kernels/block.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawLayer {
    matrices: [RawMatrix; 4],
    norms: [u64; 4],
    biases: [u64; 4],
    window: i32,
    unused: i32,
}

/// `Sequence` of `kernels/sequence.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSequence {
    cache: u64,
    capacity: i32,
    length: i32,
    pub(crate) token: u32,
    unused: i32,
}

#[expect(unsafe_code, reason = "structs go to the card as bytes")]
// SAFETY: integers, without padding.
unsafe impl Plain for RawLayer {}
#[expect(unsafe_code, reason = "structs go to the card as bytes")]
// SAFETY: integers, without padding.
unsafe impl Plain for RawSequence {}

/// `DecodeParams` of `kernels/block.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Params {
    layers: u64,
    embedding: RawMatrix,
    head: RawMatrix,
    norm: u64,
    cos: u64,
    sin: u64,
    sequences: u64,
    x: u64,
    qkv: u64,
    attended: u64,
    gated: u64,
    logits: u64,
    parts: u64,
    fixed: u64,
    arrived: u64,
    barrier: u64,
    eps: f32,
    scale: f32,
    first_layer: i32,
    end_layer: i32,
    embeds: i32,
    has_head: i32,
    batch: i32,
    hidden: i32,
    intermediate: i32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    vocab: i32,
    splits: i32,
    stages: i32,
    stage_bytes: i32,
    x_bytes: i32,
}

// The kernel's own layout: `kernels/decode.cuh` asserts the same.
const _: () = assert!(size_of::<RawLayer>() == 136 && size_of::<RawSequence>() == 24);
const _: () = assert!(offset_of!(Params, eps) == 144 && size_of::<Params>() == 216);

/// The kernels that take a step in one launch.
#[derive(Debug)]
struct Whole {
    module: Module,
    /// Each with how many sequences it is for, at most.
    kernels: Vec<(usize, Kernel)>,
    /// What a block may have of shared memory.
    shared_bytes: usize,
}

impl Whole {
    /// `None` where the card is from before Hopper.
    fn new(
        gpu: &Arc<Gpu>,
        shape: &Shape,
        element: Element,
        has_blocks: bool,
    ) -> Result<Option<Self>> {
        let module = match gpu.module(if has_blocks { BLOCKS } else { DENSE }) {
            Err(Error::NoKernelForCard { .. }) => return Ok(None),
            module => module?,
        };
        // Kernels for blocks take long to compile: heads of 32 share one with those of 64.
        let least = if has_blocks { 8 } else { 4 };
        let lanes = (shape.head_dim / 8).next_power_of_two().max(least);
        let named = |name: String, batch: usize| {
            Ok((batch, module.kernel(&format!("decode_{name}_{lanes}"))?))
        };
        let kernels: Vec<(usize, Kernel)> = if has_blocks {
            [1, 2, 4, 8]
                .map(|batch| named(format!("blocks_{batch}"), batch))
                .into_iter()
                .collect::<Result<_>>()?
        } else {
            vec![named(element.name().to_owned(), MAX_BATCH)?]
        };
        let shared: Vec<usize> = kernels
            .iter()
            .map(|&(_, kernel)| module.allow_shared(kernel))
            .collect::<Result<_>>()?;
        let shared_bytes = shared.into_iter().min().unwrap_or(0);
        Ok(Some(Self { module, kernels, shared_bytes }))
    }
}

/// A decoder on a card.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) shape: Shape,
    pub(crate) element: Element,
    pub(crate) weights: Weights,
    /// What prompts need, from the first one on.
    pub(crate) prefill: Option<Prefill>,
    /// What takes a step in one launch, on cards that have what it needs.
    whole: Option<Whole>,
    layers: Buffer,
    pub(crate) angles: [Buffer; 2],
    pub(crate) sequences: Buffer,
    // Between kernels' phases.
    x: Buffer,
    qkv: Buffer,
    attended: Buffer,
    gated: Buffer,
    pub(crate) logits: Buffer,
    parts: Buffer,
    fixed: Buffer,
    counters: Buffer,
    stage_bytes: usize,
    has_blocks: bool,
    /// Parts of a sequence's positions, at most.
    splits: usize,
}

impl Decoder {
    /// A decoder of `weights`, whose matrices are of `element` where they are not quantised.
    ///
    /// `cos` and `sin` are those of all positions, (positions, `head_dim / 2`).
    pub fn new(
        gpu: &Arc<Gpu>,
        shape: Shape,
        element: Element,
        weights: Weights,
        [cos, sin]: [&[f32]; 2],
    ) -> Result<Self> {
        let has_blocks = weights.matrices().any(|matrix| matrix.form != Form::Dense);
        assert!(
            !has_blocks || element == Element::F16,
            "codes are multiplied by what f16 may have"
        );
        let whole = Whole::new(gpu, &shape, element, has_blocks)?;
        let raw: Vec<RawLayer> = weights.layers.iter().map(raw_layer).collect();
        let has_q4_k = weights.matrices().any(|matrix| matrix.form == Form::Q4K);
        let stage_bytes = TILE * if has_q4_k { 1216 } else { 1088 };
        let sets = shape.num_key_value_heads
            * (shape.num_attention_heads / shape.num_key_value_heads).div_ceil(HEADS);
        // As many as there are blocks for when a sequence is alone: its numbers do not depend on others.
        // Where there are few positions, each head of a set has an item instead.
        let heads_of_set = HEADS.min(shape.num_attention_heads / shape.num_key_value_heads);
        let splits = (gpu.num_multiprocessors() as usize / sets).max(heads_of_set);
        let floats = |n: usize| gpu.zeros(MAX_BATCH * n * 4);
        let halves = |n: usize| gpu.zeros(MAX_BATCH * n * 2);
        Ok(Self {
            layers: gpu.upload(&raw)?,
            angles: [gpu.upload(cos)?, gpu.upload(sin)?],
            sequences: gpu.zeros(MAX_BATCH * size_of::<RawSequence>())?,
            x: floats(shape.hidden_size)?,
            qkv: floats(shape.qkv())?,
            attended: halves(shape.queries())?,
            gated: halves(shape.intermediate_size)?,
            logits: floats(shape.vocab_size)?,
            parts: gpu.zeros(MAX_BATCH * sets * splits * HEADS * (shape.head_dim + 2) * 4)?,
            fixed: gpu
                .zeros(fixed_bytes(shape.queries().max(shape.intermediate_size), MAX_BATCH))?,
            counters: gpu.zeros((1 + MAX_BATCH * sets) * 4)?,
            gpu: Arc::clone(gpu),
            shape,
            element,
            weights,
            prefill: None,
            whole,
            stage_bytes,
            has_blocks,
            splits,
        })
    }

    /// The card that it is on.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The sizes.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// An empty cache with room for `capacity` positions.
    pub fn cache(&self, capacity: usize) -> Result<Cache> {
        Cache::new(&self.gpu, &self.shape, self.weights.layers.len(), capacity)
    }

    /// Whether a step is one launch: else it goes layer by layer and sequence by sequence, as prompts do.
    #[must_use]
    pub fn is_one_launch(&self) -> bool {
        self.whole.is_some()
    }

    /// Runs a token of each sequence, whose caches must have room, and leaves their logits on the card.
    pub fn step(&mut self, sequences: &mut [(u32, &mut Cache)]) -> Result<()> {
        if self.whole.is_none() {
            return self.step_as_prompts(sequences, None);
        }
        self.write_sequences(sequences)?;
        self.run(sequences, true)
    }

    /// The same behind layers that are elsewhere: `hidden` is what they gave, a row of `hidden_size` numbers a
    /// sequence.
    pub fn step_from(&mut self, hidden: &[f32], caches: &mut [&mut Cache]) -> Result<()> {
        let (numbers, wanted) = (hidden.len(), caches.len() * self.shape.hidden_size);
        assert_eq!(numbers, wanted, "rows of another width");
        let mut sequences: Vec<(u32, &mut Cache)> =
            caches.iter_mut().map(|cache| (0, &mut **cache)).collect();
        if self.whole.is_none() {
            return self.step_as_prompts(&mut sequences, Some(hidden));
        }
        self.x.write(0, hidden)?;
        self.write_sequences(&mut sequences)?;
        self.run(&mut sequences, false)
    }

    /// A step where it is not one launch, from `hidden` or from the tokens' embeddings.
    fn step_as_prompts(
        &mut self,
        sequences: &mut [(u32, &mut Cache)],
        hidden: Option<&[f32]>,
    ) -> Result<()> {
        let (width, vocab_size) = (self.shape.hidden_size, self.shape.vocab_size);
        for (row, (token, cache)) in sequences.iter_mut().enumerate() {
            let hidden = match hidden {
                Some(rows) => Hidden::from_slice(&self.gpu, &rows[row * width..][..width], width)?,
                None => self.embed(&[*token])?,
            };
            let hidden = self.forward_layers(0..self.weights.layers.len(), hidden, cache)?;
            let logits = self.logits_of(&hidden, 0..1)?;
            self.logits.write(row * vocab_size * 4, &logits)?;
            cache.len += 1;
        }
        Ok(())
    }

    /// Tells the card of the sequences of the next step.
    pub(crate) fn write_sequences(&mut self, sequences: &mut [(u32, &mut Cache)]) -> Result<()> {
        let batch = sequences.len();
        assert!((1..=MAX_BATCH).contains(&batch), "{batch} sequences");
        let raw: Vec<RawSequence> = sequences
            .iter()
            .map(|(token, cache)| {
                assert!(cache.len < cache.capacity, "the cache has no room");
                assert!((*token as usize) < self.shape.vocab_size, "there is no token {token}");
                RawSequence {
                    cache: cache.buffer.address(),
                    capacity: cache.capacity as i32,
                    length: cache.len as i32,
                    token: *token,
                    unused: 0,
                }
            })
            .collect();
        self.sequences.write(0, &raw)
    }

    /// Launches a step of `sequences`, which the card was told of; it begins with their tokens' embeddings, or
    /// with what was written in their place.
    pub(crate) fn run(&mut self, sequences: &mut [(u32, &mut Cache)], embeds: bool) -> Result<()> {
        self.launch(sequences.len(), embeds)?;
        for (_, cache) in sequences {
            cache.len += 1;
        }
        Ok(())
    }

    /// Launches a step with the sequences as they are on the card, as many at once as a block has room for.
    fn launch(&mut self, batch: usize, embeds: bool) -> Result<()> {
        let Some(whole) = &self.whole else {
            let (major, minor) = self.gpu.compute_capability()?;
            return Err(Error::NoKernelForCard { major, minor });
        };
        let has_room = |batch: &usize| self.stages(whole, *batch) >= MIN_STAGES;
        let most = (1..=MAX_BATCH).rev().find(has_room).unwrap_or(1);
        for first in (0..batch).step_by(most) {
            self.launch_some(whole, first, most.min(batch - first), embeds)?;
        }
        Ok(())
    }

    /// Stages of the ring that a block has room for beside the activations of `batch` sequences.
    fn stages(&self, whole: &Whole, batch: usize) -> usize {
        let taken = self.activation_bytes(batch) + SUMS * WARPS * batch * TILE * 4;
        (whole.shared_bytes.saturating_sub(taken) / self.stage_bytes).min(MAX_STAGES)
    }

    /// Launches a step of `batch` sequences from the `first` on.
    fn launch_some(&self, whole: &Whole, first: usize, batch: usize, embeds: bool) -> Result<()> {
        let &(_, kernel) = whole
            .kernels
            .iter()
            .find(|(most, _)| batch <= *most)
            .expect("there is a kernel for the largest batch");
        let shape = &self.shape;
        let blocks = self.gpu.num_multiprocessors();
        let x_bytes = self.activation_bytes(batch);
        let sums_bytes = SUMS * WARPS * batch * TILE * 4;
        let stages = self.stages(whole, batch);
        assert!(stages > 0, "activations leave no room for weights");
        let of_row = |buffer: &Buffer, bytes: usize| buffer.address() + (first * bytes) as u64;
        let mut params = Params {
            layers: self.layers.address(),
            embedding: RawMatrix::of(&self.weights.embedding),
            head: RawMatrix::of(&self.weights.head),
            norm: self.weights.norm.address(),
            cos: self.angles[0].address(),
            sin: self.angles[1].address(),
            sequences: of_row(&self.sequences, size_of::<RawSequence>()),
            x: of_row(&self.x, shape.hidden_size * 4),
            qkv: self.qkv.address(),
            attended: self.attended.address(),
            gated: self.gated.address(),
            logits: of_row(&self.logits, shape.vocab_size * 4),
            parts: self.parts.address(),
            fixed: self.fixed.address(),
            arrived: self.counters.address() + 4,
            barrier: self.counters.address(),
            eps: shape.rms_norm_eps,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            first_layer: 0,
            end_layer: self.weights.layers.len() as i32,
            embeds: i32::from(embeds),
            has_head: 1,
            batch: batch as i32,
            hidden: shape.hidden_size as i32,
            intermediate: shape.intermediate_size as i32,
            heads: shape.num_attention_heads as i32,
            kv_heads: shape.num_key_value_heads as i32,
            head_dim: shape.head_dim as i32,
            vocab: shape.vocab_size as i32,
            splits: self.splits as i32,
            stages: stages as i32,
            stage_bytes: self.stage_bytes as i32,
            x_bytes: x_bytes as i32,
        };
        let launch = Launch {
            blocks: [blocks, 1, 1],
            threads: BLOCK_THREADS,
            shared_bytes: (stages * self.stage_bytes + x_bytes + sums_bytes) as u32,
            is_cooperative: true,
        };
        #[expect(unsafe_code, reason = "kernels are launched by address")]
        // SAFETY: the parameters are the kernel's, and the buffers are this decoder's and the caches', which
        // wait for the stream when they are let go of.
        unsafe {
            whole.module.launch(kernel, launch, &mut params)
        }
    }

    /// What activations of `batch` sequences are given of a block's shared memory.
    fn activation_bytes(&self, batch: usize) -> usize {
        // A row is padded.
        let dense = |inputs: usize| batch * ((inputs * 2).next_multiple_of(128) + 64);
        let bytes = |inputs: usize| {
            let fixed = if self.has_blocks { fixed_bytes(inputs, batch) } else { 0 };
            dense(inputs).max(fixed)
        };
        let shape = &self.shape;
        // What comes from a norm must be there, and two slices of what does not fit.
        let needed = bytes(shape.hidden_size).max(ATTENTION_BYTES);
        let wanted = [shape.queries(), shape.intermediate_size].map(|inputs| match bytes(inputs) {
            bytes if bytes <= MAX_ACTIVATION_BYTES => bytes,
            _ => 2 * bytes(SLICE).next_multiple_of(16),
        });
        wanted.into_iter().fold(needed, usize::max)
    }

    /// The logits of the last step's sequences: (batch, `vocab_size`).
    pub fn logits(&self, batch: usize) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; batch * self.shape.vocab_size];
        self.logits.read(0, &mut logits)?;
        Ok(logits)
    }
}

/// `Fixed::bytes` of `kernels/products.cuh`: activations of `batch` sequences in fixed point.
fn fixed_bytes(inputs: usize, batch: usize) -> usize {
    batch * (2 * (inputs.next_multiple_of(128) + 16) + inputs.div_ceil(256) * 36)
}

impl Weights {
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter();
        layers
            .flat_map(|layer| [&layer.qkv, &layer.o, &layer.gate_up, &layer.down])
            .chain([&self.embedding, &self.head])
    }
}

fn raw_layer(layer: &LayerWeights) -> RawLayer {
    let address = |buffer: &Arc<Buffer>| buffer.address();
    let (q_norm, k_norm) = layer.qk_norm.as_ref().map_or((0, 0), |(q, k)| (address(q), address(k)));
    RawLayer {
        matrices: [&layer.qkv, &layer.o, &layer.gate_up, &layer.down].map(RawMatrix::of),
        norms: [address(&layer.input_norm), address(&layer.post_norm), q_norm, k_norm],
        biases: layer.biases.each_ref().map(|bias| bias.as_ref().map_or(0, address)),
        window: layer.window.unwrap_or(0) as i32,
        unused: 0,
    }
}
