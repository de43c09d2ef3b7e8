//! Bringing a model's tensors to a GPU.
//!
//! What a file has in a form that needs no arithmetic, or only rounding or another order, is queued as a
//! stretch of that file, and all threads read the queue; the rest is computed first.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::available_parallelism;

use candle_core::{DType, Device};
use checkpoint::gguf::architecture::gguf_row;
use checkpoint::{Dtype, Encoding};
use half::{bf16, f16};
use kernels::decode::LayerWeights;
use kernels::forms::{self, Matrix};
use kernels::{Buffer, Convert, Order, Piece, Source, Uploader};

use super::{Form, GATE_UP, QKV, form};
use crate::anatomy::{self, layer_tensor};
use crate::config::DecoderConfig;
use crate::device::CardPart;
use crate::error::Result;
use crate::mapped::Bytes;
use crate::progress::Watch;
use crate::source::{Stored, WeightSource};

/// Threads that read files: more do not fill a card's link faster.
const MAX_THREADS: u64 = 12;

/// Bytes for which a thread more is worth its pinned memory.
const BYTES_PER_THREAD: u64 = 32 << 20;

/// Bytes that were computed and wait to go to the card, at most, or one tensor's.
const MAX_WAITING: usize = 256 << 20;

/// Brings tensors to the card; those of the same bytes once.
pub(super) struct Loader<'a> {
    source: &'a dyn WeightSource,
    part: &'a CardPart,
    watch: &'a Watch<'a>,
    /// The type of what is not quantised.
    dtype: DType,
    uploader: Uploader,
    matrices: HashMap<Vec<usize>, Matrix>,
    vectors: HashMap<usize, Arc<Buffer>>,
    queue: Vec<Queued>,
    /// Matrices of blocks that the kernels do not have.
    num_decoded: usize,
}

/// A tensor that is to go to a part of a matrix.
struct Queued {
    prepared: Prepared,
    to: Matrix,
    offset: usize,
    /// What it is in the progress.
    progress: u64,
}

/// A tensor, as far as it is made ready before it goes.
struct Prepared {
    bytes: Bytes,
    convert: Convert,
    /// The bytes of a stored row, and which stored row each is.
    order: Option<(usize, Vec<u32>)>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        config: &DecoderConfig,
        source: &'a dyn WeightSource,
        part: &'a CardPart,
        watch: &'a Watch<'a>,
    ) -> Result<Self> {
        let there: Vec<_> = anatomy::expected(config)
            .into_iter()
            .filter(|tensor| {
                anatomy::layer_of(&tensor.name).is_none_or(|layer| layer >= part.first_layer)
            })
            .collect();
        let encoding = |name: &str| source.encoding(name);
        let has_codes = super::has_codes(config, part.first_layer, source.storage(), &encoding);
        let bytes: u64 = there.iter().map(|tensor| source.stored_bytes(&tensor.name)).sum();
        let cores = available_parallelism().map_or(1, usize::from) as u64;
        let threads = (bytes / BYTES_PER_THREAD).clamp(1, MAX_THREADS.min(cores));
        Ok(Self {
            source,
            part,
            watch,
            // Codes are multiplied as f16, whatever else is of 16 bits.
            dtype: if has_codes { DType::F16 } else { part.dtype },
            uploader: Uploader::new(&part.gpu.gpu, threads as usize)?,
            matrices: HashMap::new(),
            vectors: HashMap::new(),
            queue: Vec::new(),
            num_decoded: 0,
        })
    }

    /// The type of what is not quantised.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Waits until all is there, and returns what a user should hear.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        self.upload()?;
        let mut notes = Vec::new();
        if self.num_decoded > 0 {
            notes.push(format!(
                "{} matrices are decoded to {} on the GPU, whose kernels have q8_0 and q4_k, and one type \
                 for those that are multiplied together",
                self.num_decoded,
                if self.dtype == DType::BF16 { "bf16" } else { "f16" }
            ));
        }
        if self.part.dtype == DType::BF16 && self.dtype != DType::BF16 {
            notes.push("beside quantised matrices a GPU computes in f16, not in bf16".to_owned());
        }
        Ok(notes)
    }

    /// Brings to the card what is queued.
    fn upload(&mut self) -> Result<()> {
        let pieces: Vec<Piece> = self.queue.iter().map(Queued::piece).collect();
        let read = |queued: &Queued| match &queued.prepared.bytes {
            Bytes::Mapped(_, range) => (range.len() as u64, queued.progress),
            Bytes::Owned(_) => (0, 0),
        };
        let (total, progress) =
            self.queue.iter().map(read).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let (watch, mut told) = (self.watch, 0);
        let mut tell = |bytes| -> Result<()> {
            watch.check()?;
            let done = (u128::from(bytes) * u128::from(progress))
                .checked_div(u128::from(total))
                .unwrap_or(0) as u64;
            watch.done(done - told);
            told = done;
            Ok(())
        };
        self.uploader.upload(&pieces, &mut tell)?;
        self.queue.clear();
        Ok(())
    }

    /// The matrices called `names`, one behind the other.
    pub(super) fn matrix(&mut self, names: &[String]) -> Result<Matrix> {
        self.watch.check()?;
        let key: Option<Vec<usize>> = names.iter().map(|name| self.source.same_as(name)).collect();
        if let Some(known) = key.as_ref().and_then(|key| self.matrices.get(key)) {
            return Ok(known.clone());
        }
        let source = self.source;
        let stored = names.iter().map(|name| source.stored_as(name)).collect::<Result<Vec<_>>>()?;
        let together =
            super::together(stored.iter().map(|it| form(source.storage(), it.encoding, it.shape)));
        let there = match together {
            Form::Dense => forms::Form::Dense,
            Form::Q8_0 => forms::Form::Q8_0,
            Form::Q4K => forms::Form::Q4K,
        };
        let inputs = stored[0].shape.last().copied().unwrap_or(0);
        let outputs = stored.iter().map(|stored| stored.shape[0]).sum();
        let matrix = Matrix::alloc(&self.part.gpu.gpu, there, outputs, inputs)?;
        let mut offset = 0;
        for (name, stored) in names.iter().zip(&stored) {
            let progress = source.stored_bytes(name);
            let prepared = self.prepared(stored, there)?;
            if matches!(prepared.bytes, Bytes::Owned(_)) {
                self.watch.done(progress);
            }
            self.queue.push(Queued { prepared, to: matrix.clone(), offset, progress });
            offset += stored.shape[0] * there.row_bytes(inputs);
        }
        let waiting = self.queue.iter().map(|queued| match &queued.prepared.bytes {
            Bytes::Mapped(..) => 0,
            Bytes::Owned(bytes) => bytes.len(),
        });
        if waiting.sum::<usize>() > MAX_WAITING {
            self.upload()?;
        }
        if let Some(key) = key {
            self.matrices.insert(key, matrix.clone());
        }
        Ok(matrix)
    }

    /// A tensor for a matrix of a form.
    fn prepared(&mut self, stored: &Stored, form: forms::Form) -> Result<Prepared> {
        let storage = self.source.storage();
        let columns = stored.shape.last().copied().unwrap_or(0);
        let order = |row_bytes: usize| {
            let rows = 0..stored.shape[0];
            stored.pairs.map(|head_dim| {
                (row_bytes, rows.map(|row| gguf_row(row, head_dim) as u32).collect())
            })
        };
        if form != forms::Form::Dense {
            let convert = Convert::Blocks { form, columns };
            if matches!(stored.encoding, Encoding::Blocks(_)) {
                let order = order(form.stored_bytes(columns));
                return Ok(Prepared { bytes: stored.bytes.clone(), convert, order });
            }
            let blocks = stored.as_blocks(storage)?.map(|blocks| blocks.bytes().to_vec());
            return Ok(Prepared::computed(blocks.unwrap_or_default(), convert));
        }
        let convert = match (stored.encoding, self.dtype) {
            (Encoding::Plain(Dtype::F32), DType::BF16) => Some((Convert::F32ToBF16, 4)),
            (Encoding::Plain(Dtype::F32), _) => Some((Convert::F32ToF16, 4)),
            (Encoding::Plain(Dtype::F16), DType::BF16) => Some((Convert::F16ToBF16, 2)),
            (Encoding::Plain(Dtype::BF16), DType::F16) => Some((Convert::BF16ToF16, 2)),
            (Encoding::Plain(Dtype::F16 | Dtype::BF16), _) => Some((Convert::None, 2)),
            _ => None,
        };
        let is_quantised = storage.blocks(stored.encoding, stored.shape).is_some();
        if let Some((convert, bytes)) = convert.filter(|_| !is_quantised) {
            let order = order(columns * bytes);
            return Ok(Prepared { bytes: stored.bytes.clone(), convert, order });
        }
        self.num_decoded += usize::from(is_quantised);
        let numbers = match stored.as_blocks(storage)? {
            Some(blocks) => {
                crate::quantised::dequantised(&blocks, self.dtype, &Device::Cpu)?.flatten_all()?
            }
            None => stored.tensor(self.dtype, &Device::Cpu)?.flatten_all()?,
        };
        let bytes: Vec<u8> = if self.dtype == DType::BF16 {
            numbers.to_vec1::<bf16>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        } else {
            numbers.to_vec1::<f16>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        Ok(Prepared::computed(bytes, Convert::None))
    }

    /// A norm's weight or a bias, in f32.
    pub(super) fn vector(&mut self, name: &str) -> Result<Arc<Buffer>> {
        let key = self.source.same_as(name);
        if let Some(known) = key.and_then(|key| self.vectors.get(&key)) {
            return Ok(Arc::clone(known));
        }
        let numbers = self.vector_numbers(name)?;
        let buffer = Arc::new(self.part.gpu.gpu.upload(&numbers)?);
        if let Some(key) = key {
            self.vectors.insert(key, Arc::clone(&buffer));
        }
        Ok(buffer)
    }

    fn vector_numbers(&self, name: &str) -> Result<Vec<f32>> {
        let vector = self.source.vector(name, &Device::Cpu)?;
        self.watch.done(self.source.stored_bytes(name));
        Ok(vector.to_dtype(DType::F32)?.to_vec1()?)
    }

    pub(super) fn layer(&mut self, config: &DecoderConfig, layer: usize) -> Result<LayerWeights> {
        let name = |name: &str| layer_tensor(layer, name);
        let weights = |names: &[&str]| -> Vec<String> {
            names.iter().map(|it| name(&format!("{it}.weight"))).collect()
        };
        let (o, down) = (["self_attn.o_proj"], ["mlp.down_proj"]);
        let bias = |is_there: bool, names: &[&str]| -> Result<Option<Arc<Buffer>>> {
            if !is_there {
                return Ok(None);
            }
            let mut all = Vec::new();
            for it in names {
                all.extend(self.vector_numbers(&name(&format!("{it}.bias")))?);
            }
            Ok(Some(Arc::new(self.part.gpu.gpu.upload(&all)?)))
        };
        let biases = [
            bias(config.biases.qkv, &QKV)?,
            bias(config.biases.o, &o)?,
            bias(config.biases.mlp, &GATE_UP)?,
            bias(config.biases.mlp, &down)?,
        ];
        let qk_norm = if config.qk_norm {
            let q_norm = self.vector(&name("self_attn.q_norm.weight"))?;
            Some((q_norm, self.vector(&name("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        Ok(LayerWeights {
            qkv: self.matrix(&weights(&QKV))?,
            o: self.matrix(&weights(&o))?,
            gate_up: self.matrix(&weights(&GATE_UP))?,
            down: self.matrix(&weights(&down))?,
            input_norm: self.vector(&name("input_layernorm.weight"))?,
            post_norm: self.vector(&name("post_attention_layernorm.weight"))?,
            qk_norm,
            biases,
            window: config.sliding_windows[layer],
        })
    }
}

impl Prepared {
    fn computed(bytes: Vec<u8>, convert: Convert) -> Self {
        Self { bytes: Bytes::Owned(Arc::new(bytes)), convert, order: None }
    }
}

impl Queued {
    fn piece(&self) -> Piece<'_> {
        let Prepared { bytes, convert, order } = &self.prepared;
        let from = match bytes {
            Bytes::Mapped(mapped, range) => {
                let (file, path) = mapped.file();
                Source::File { file, path, range: range.start as u64..range.end as u64 }
            }
            Bytes::Owned(bytes) => Source::Memory(bytes),
        };
        let order = order.as_ref().map(|(row_bytes, rows)| Order { row_bytes: *row_bytes, rows });
        Piece { from, to: self.to.buffer(), offset: self.offset, convert: *convert, order }
    }
}
