//! A part of a model on a GPU, by the crate `kernels`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use kernels::Buffer;
use kernels::decode::{Cache, Decoder, Element, LayerWeights, MAX_BATCH, Shape, Weights};
use kernels::forms::Matrix;
use kernels::prefill::{CHUNK, Hidden};

use super::{Form, form};
use crate::anatomy::{EMBEDDING, HEAD, NORM, layer_tensor};
use crate::cache;
use crate::config::DecoderConfig;
use crate::device::CardPart;
use crate::error::{Error, Result};
use crate::progress::Watch;
use crate::source::WeightSource;

/// A part of a model on a GPU: its last layers, the final norm and the head, and it may be the embedding.
#[derive(Debug)]
pub(crate) struct Card {
    /// Work on a card is done one call after the other.
    decoder: Mutex<Decoder>,
    first_layer: usize,
    num_layers: usize,
    has_embedding: bool,
    step_bytes: u64,
    max_position_embeddings: usize,
    notes: Vec<String>,
}

/// The keys and values of a sequence there.
#[derive(Debug)]
pub(crate) struct CardCache {
    cache: Cache,
    /// How many positions each layer holds.
    lens: Vec<usize>,
    max_position_embeddings: usize,
}

/// Why the kernels do not have a model of this config, if so.
pub(crate) fn unsupported(config: &DecoderConfig) -> Option<String> {
    shape(config).unsupported()
}

fn shape(config: &DecoderConfig) -> Shape {
    Shape {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        rms_norm_eps: config.rms_norm_eps as f32,
    }
}

impl Card {
    /// Loads the part that `part` names; `has_own_head` says whether the head is not the embedding.
    pub(crate) fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        part: &CardPart,
        has_own_head: bool,
        watch: &Watch,
    ) -> Result<Self> {
        if let Some(reason) = unsupported(config) {
            return Err(Error::NotOnCard { reason });
        }
        let mut loader = Loader {
            source,
            part,
            watch,
            dtype: part.dtype,
            matrices: HashMap::new(),
            vectors: HashMap::new(),
            num_decoded: 0,
        };
        let first = part.first_layer;
        // Codes are multiplied as f16, whatever else is of 16 bits.
        if loader.has_codes(config, first) {
            loader.dtype = DType::F16;
        }
        let layers = (first..config.num_hidden_layers)
            .map(|layer| loader.layer(config, layer))
            .collect::<Result<Vec<_>>>()?;
        let norm = loader.vector(NORM)?;
        let head = loader.matrix(&[if has_own_head { HEAD } else { EMBEDDING }.to_owned()])?;
        // Where the embedding is not here, nothing is looked up.
        let embedding = if part.has_embedding && has_own_head {
            loader.matrix(&[EMBEDDING.to_owned()])?
        } else {
            head.clone()
        };
        let of_layer = |layer: &LayerWeights| {
            [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]
                .map(Matrix::bytes)
                .iter()
                .sum::<usize>()
        };
        let step_bytes = (layers.iter().map(of_layer).sum::<usize>() + head.bytes()) as u64;
        let notes = loader.notes();
        let element = if loader.dtype == DType::BF16 { Element::BF16 } else { Element::F16 };
        let frequencies = config.rope.inverse_frequencies(config.head_dim);
        let angles = config.rope.angles(&frequencies, 0..config.max_position_embeddings);
        let weights = Weights { embedding, layers, norm, head };
        let mut decoder = Decoder::new(
            &part.gpu.gpu,
            shape(config),
            element,
            weights,
            [&angles.cos, &angles.sin],
        )?;
        decoder.prepare_prefill()?;
        Ok(Self {
            decoder: Mutex::new(decoder),
            first_layer: first,
            num_layers: config.num_hidden_layers - first,
            has_embedding: part.has_embedding,
            step_bytes,
            max_position_embeddings: config.max_position_embeddings,
            notes,
        })
    }

    fn decoder(&self) -> MutexGuard<'_, Decoder> {
        self.decoder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn first_layer(&self) -> usize {
        self.first_layer
    }

    pub(crate) fn has_embedding(&self) -> bool {
        self.has_embedding
    }

    /// The bytes of matrices that a step reads.
    pub(crate) fn step_bytes(&self) -> u64 {
        self.step_bytes
    }

    /// What a user should hear.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// An empty cache with room for `capacity` positions, rounded up.
    pub(crate) fn cache(&self, capacity: usize) -> Result<CardCache> {
        let capacity = cache::rounded(capacity, self.max_position_embeddings);
        Ok(CardCache {
            cache: self.decoder().cache(capacity)?,
            lens: vec![0; self.num_layers],
            max_position_embeddings: self.max_position_embeddings,
        })
    }

    /// The embeddings of `tokens`, (n, `hidden_size`) in f32.
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let hidden = self.decoder().embed(tokens)?;
        tensor(&hidden, tokens.len())
    }

    /// Runs `hidden`, (n, `hidden_size`), through some of the layers here.
    pub(crate) fn forward_layers(
        &self,
        layers: Range<usize>,
        hidden: &Tensor,
        cache: &mut CardCache,
    ) -> Result<Tensor> {
        let (n, width) = hidden.dims2()?;
        let numbers = hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let start = cache.lens[layers.start];
        let mut decoder = self.decoder();
        cache.reserve(start + n)?;
        cache.cache.len = start;
        let hidden = Hidden::from_slice(decoder.gpu(), &numbers, width)?;
        let hidden = decoder.forward_layers(layers.clone(), hidden, &mut cache.cache)?;
        cache.lens[layers].fill(start + n);
        tensor(&hidden, n)
    }

    /// The logits behind rows of hidden states, in f32.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let (n, width) = hidden.dims2()?;
        let numbers = hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut decoder = self.decoder();
        let hidden = Hidden::from_slice(decoder.gpu(), &numbers, width)?;
        Ok(decoder.logits_of(&hidden, 0..n)?)
    }

    /// The logits behind the last of `tokens`, where all of the model is here.
    pub(crate) fn prompt_logits(&self, tokens: &[u32], cache: &mut CardCache) -> Result<Vec<f32>> {
        let start = cache.lens[0];
        if let &[token] = tokens {
            return self.step(&mut [(token, cache)]);
        }
        cache.reserve(start + tokens.len())?;
        let mut decoder = self.decoder();
        let mut last = None;
        for (i, piece) in tokens.chunks(CHUNK).enumerate() {
            cache.cache.len = start + i * CHUNK;
            last = Some(decoder.prefill(piece, &mut cache.cache)?);
        }
        cache.lens.fill(start + tokens.len());
        let last = last.ok_or(Error::EmptyPrompt)?;
        let row = last.num_rows() - 1;
        Ok(decoder.logits_of(&last, row..row + 1)?)
    }

    /// Runs a token of each sequence, where all of the model is here, and returns the logits behind them.
    pub(crate) fn step(&self, sequences: &mut [(u32, &mut CardCache)]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for sequences in sequences.chunks_mut(MAX_BATCH) {
            for (_, cache) in sequences.iter_mut() {
                let len = cache.lens[0];
                cache.reserve(len + 1)?;
                cache.cache.len = len;
            }
            let mut decoder = self.decoder();
            let batch = sequences.iter_mut().map(|(token, cache)| (*token, &mut cache.cache));
            decoder.step(&mut batch.collect::<Vec<_>>())?;
            logits.extend(decoder.logits(sequences.len())?);
            for (_, cache) in sequences {
                cache.lens.iter_mut().for_each(|len| *len += 1);
            }
        }
        Ok(logits)
    }
}

fn tensor(hidden: &Hidden, n: usize) -> Result<Tensor> {
    let numbers = hidden.to_vec()?;
    let shape = (n, numbers.len() / n);
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
}

impl CardCache {
    /// How many positions each layer holds.
    pub(crate) fn lens(&self) -> &[usize] {
        &self.lens
    }

    pub(crate) fn lens_mut(&mut self) -> &mut [usize] {
        &mut self.lens
    }

    /// How many positions there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// A copy that goes its own way.
    pub(crate) fn fork(&self) -> Result<Self> {
        Ok(Self {
            cache: self.cache.with_capacity(self.cache.capacity())?,
            lens: self.lens.clone(),
            max_position_embeddings: self.max_position_embeddings,
        })
    }

    fn reserve(&mut self, needed: usize) -> Result<()> {
        let capacity = self.cache.capacity();
        if needed > capacity {
            // By half of itself at least, so that n positions cost O(n) copies.
            let wanted = needed.max((capacity + capacity / 2).min(self.max_position_embeddings));
            let capacity = cache::rounded(wanted, self.max_position_embeddings);
            self.cache = self.cache.with_capacity(capacity)?;
        }
        Ok(())
    }
}

/// Brings tensors to the card; those of the same bytes once.
struct Loader<'a> {
    source: &'a dyn WeightSource,
    part: &'a CardPart,
    watch: &'a Watch<'a>,
    /// The type of what is not quantised.
    dtype: DType,
    matrices: HashMap<Vec<usize>, Matrix>,
    vectors: HashMap<usize, Arc<Buffer>>,
    /// Matrices of blocks that the kernels do not have.
    num_decoded: usize,
}

impl Loader<'_> {
    /// Whether any matrix that goes there is kept in codes.
    fn has_codes(&self, config: &DecoderConfig, first: usize) -> bool {
        let is_there =
            |name: &str| crate::anatomy::layer_of(name).is_none_or(|layer| layer >= first);
        crate::anatomy::expected(config).iter().any(|tensor| {
            let stored = self.source.encoding(&tensor.name);
            is_there(&tensor.name)
                && stored.is_some_and(|stored| {
                    form(self.source.storage(), stored, &tensor.shape) != Form::Dense
                })
        })
    }

    fn notes(&self) -> Vec<String> {
        let decoded = (self.num_decoded > 0).then(|| {
            format!(
                "{} matrices are decoded to f16 on the GPU, whose kernels have q8_0 and q4_k",
                self.num_decoded
            )
        });
        decoded.into_iter().collect()
    }

    /// The matrices called `names`, one behind the other.
    fn matrix(&mut self, names: &[String]) -> Result<Matrix> {
        self.watch.check()?;
        let key: Option<Vec<usize>> = names.iter().map(|name| self.source.same_as(name)).collect();
        if let Some(known) = key.as_ref().and_then(|key| self.matrices.get(key)) {
            return Ok(known.clone());
        }
        let stored =
            names.iter().map(|name| self.source.stored_as(name)).collect::<Result<Vec<_>>>()?;
        let storage = self.source.storage();
        let mut forms = stored.iter().map(|it| form(storage, it.encoding, it.shape));
        let first = forms.next().unwrap_or(Form::Dense);
        // What is multiplied by together is of one form.
        let together = if forms.all(|other| other == first) { first } else { Form::Dense };
        let inputs = stored[0].shape.last().copied().unwrap_or(0);
        let mut parts = Vec::with_capacity(stored.len());
        for tensor in &stored {
            let blocks = tensor.as_blocks(storage)?;
            parts.push(match (together, blocks) {
                (Form::Q8_0 | Form::Q4K, Some(blocks)) => Cow::Owned(blocks.bytes().to_vec()),
                (_, blocks) => {
                    self.num_decoded += usize::from(blocks.is_some());
                    self.dense(tensor)?
                }
            });
        }
        let bytes = if parts.len() == 1 { parts.remove(0) } else { Cow::Owned(parts.concat()) };
        let form = match together {
            Form::Dense => kernels::forms::Form::Dense,
            Form::Q8_0 => kernels::forms::Form::Q8_0,
            Form::Q4K => kernels::forms::Form::Q4K,
        };
        let matrix = Matrix::upload(&self.part.gpu.gpu, form, &bytes, inputs)?;
        for name in names {
            self.watch.done(self.source.stored_bytes(name));
        }
        if let Some(key) = key {
            self.matrices.insert(key, matrix.clone());
        }
        Ok(matrix)
    }

    /// A matrix' numbers in the 16 bits of the arithmetic.
    fn dense<'b>(&self, tensor: &'b crate::source::Stored) -> Result<Cow<'b, [u8]>> {
        if let Some(bytes) = tensor.as_is(self.dtype) {
            return Ok(Cow::Borrowed(bytes));
        }
        let numbers = tensor.tensor(self.dtype, &Device::Cpu)?.flatten_all()?;
        Ok(Cow::Owned(if self.dtype == DType::BF16 {
            numbers.to_vec1::<bf16>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        } else {
            numbers.to_vec1::<f16>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        }))
    }

    /// A norm's weight or a bias, in f32.
    fn vector(&mut self, name: &str) -> Result<Arc<Buffer>> {
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

    fn layer(&mut self, config: &DecoderConfig, layer: usize) -> Result<LayerWeights> {
        let name = |name: &str| layer_tensor(layer, name);
        let weights = |names: &[&str]| -> Vec<String> {
            names.iter().map(|it| name(&format!("{it}.weight"))).collect()
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let (o, down) = (["self_attn.o_proj"], ["mlp.down_proj"]);
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"];
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
            bias(config.biases.qkv, &qkv)?,
            bias(config.biases.o, &o)?,
            bias(config.biases.mlp, &gate_up)?,
            bias(config.biases.mlp, &down)?,
        ];
        let qk_norm = if config.qk_norm {
            let q_norm = self.vector(&name("self_attn.q_norm.weight"))?;
            Some((q_norm, self.vector(&name("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        Ok(LayerWeights {
            qkv: self.matrix(&weights(&qkv))?,
            o: self.matrix(&weights(&o))?,
            gate_up: self.matrix(&weights(&gate_up))?,
            down: self.matrix(&weights(&down))?,
            input_norm: self.vector(&name("input_layernorm.weight"))?,
            post_norm: self.vector(&name("post_attention_layernorm.weight"))?,
            qk_norm,
            biases,
            window: config.sliding_windows[layer],
        })
    }
}
