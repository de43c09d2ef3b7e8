//! A part of a model on a GPU, by the crate `kernels`.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use kernels::decode::{Cache, Decoder, Element, LayerWeights, MAX_BATCH, Shape, Weights};
use kernels::forms::Matrix;
use kernels::prefill::{CHUNK, Hidden};
use kernels::sample::Sampler;

use super::load::Loader;
use crate::anatomy::{EMBEDDING, HEAD, NORM};
use crate::cache;
use crate::config::DecoderConfig;
use crate::device::CardPart;
use crate::error::{Error, Result};
use crate::progress::Watch;
use crate::source::WeightSource;

#[path = "flight.rs"]
mod flight;
pub(crate) use flight::{CardHistory, Flight};

/// A part of a model on a GPU: its last layers, the final norm and the head, and it may be the embedding.
#[derive(Debug)]
pub(crate) struct Card {
    /// Work on a card is done one call after the other.
    decoder: Mutex<Decoder>,
    /// Chooses tokens, where the vocabulary is not too large for it. Whoever has both has the sampler first.
    sampler: Option<Mutex<Sampler>>,
    first_layer: usize,
    num_layers: usize,
    has_embedding: bool,
    step_bytes: u64,
    max_position_embeddings: usize,
    notes: Vec<String>,
}

const _: () = assert!(CHUNK == super::PIECE);

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

/// What the kernels take beside weights and caches, where matrices are in codes or not; the rotary angles of all
/// positions are among it.
pub(crate) fn work_bytes(config: &DecoderConfig, has_codes: bool) -> u64 {
    let angles = config.max_position_embeddings * config.head_dim * 4;
    kernels::prefill::work_bytes(&shape(config), has_codes) + angles as u64
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
        let mut loader = Loader::new(config, source, part, watch)?;
        let first = part.first_layer;
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
        let dtype = loader.dtype();
        let mut notes = loader.finish()?;
        let of_layer = |layer: &LayerWeights| {
            [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]
                .map(Matrix::bytes)
                .iter()
                .sum::<usize>()
        };
        let step_bytes = (layers.iter().map(of_layer).sum::<usize>() + head.bytes()) as u64;
        let element = if dtype == DType::BF16 { Element::BF16 } else { Element::F16 };
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
        let sampler = match Sampler::new(&part.gpu.gpu, config.vocab_size) {
            Ok(sampler) => Some(Mutex::new(sampler)),
            Err(error @ kernels::Error::LargeVocabulary { .. }) => {
                notes.push(format!("tokens are chosen on the cpu: {error}"));
                None
            }
            // A note of its own says this.
            Err(kernels::Error::NoKernelForCard { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if !decoder.is_one_launch() {
            notes.push(
                "the GPU is older than an H100: tokens go layer by layer, by the kernels for prompts, and are \
                 chosen on the cpu"
                    .to_owned(),
            );
        }
        Ok(Self {
            decoder: Mutex::new(decoder),
            sampler,
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

    /// Runs `tokens`, where all of the model is here.
    pub(crate) fn feed(&self, tokens: &[u32], cache: &mut CardCache) -> Result<()> {
        prefill(&mut self.decoder(), tokens, cache).map(|_| ())
    }

    /// The logits behind the last of `tokens`, where all of the model is here.
    pub(crate) fn prompt_logits(&self, tokens: &[u32], cache: &mut CardCache) -> Result<Vec<f32>> {
        if let &[token] = tokens {
            return self.step(&mut [(token, cache)]);
        }
        let mut decoder = self.decoder();
        let last = prefill(&mut decoder, tokens, cache)?.ok_or(Error::EmptyPrompt)?;
        let row = last.num_rows() - 1;
        Ok(decoder.logits_of(&last, row..row + 1)?)
    }

    /// Runs a row of hidden states of each sequence, (n, `hidden_size`), through all of the layers here, and
    /// returns the logits behind them.
    pub(crate) fn step_from(
        &self,
        hidden: &Tensor,
        caches: &mut [&mut CardCache],
    ) -> Result<Vec<f32>> {
        let width = hidden.dims2()?.1;
        let numbers = hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let before: Vec<usize> = caches.iter().map(|cache| cache.lens[0]).collect();
        let stepped = self.step_from_all(&numbers, width, caches);
        if stepped.is_err() {
            for (cache, len) in caches.iter_mut().zip(before) {
                cache.lens.fill(len);
            }
        }
        stepped
    }

    fn step_from_all(
        &self,
        numbers: &[f32],
        width: usize,
        caches: &mut [&mut CardCache],
    ) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for (caches, numbers) in caches.chunks_mut(MAX_BATCH).zip(numbers.chunks(MAX_BATCH * width))
        {
            for cache in caches.iter_mut() {
                cache.reserve_for_step()?;
            }
            let mut decoder = self.decoder();
            let mut held: Vec<&mut Cache> =
                caches.iter_mut().map(|cache| &mut cache.cache).collect();
            decoder.step_from(numbers, &mut held)?;
            logits.extend(decoder.logits(caches.len())?);
            for cache in caches.iter_mut() {
                cache.stepped();
            }
        }
        Ok(logits)
    }

    /// Runs a token of each sequence, where all of the model is here, and returns the logits behind them.
    ///
    /// After an error the caches hold what they held.
    pub(crate) fn step(&self, sequences: &mut [(u32, &mut CardCache)]) -> Result<Vec<f32>> {
        let before: Vec<usize> = sequences.iter().map(|(_, cache)| cache.lens[0]).collect();
        let stepped = self.step_all(sequences);
        if stepped.is_err() {
            for ((_, cache), len) in sequences.iter_mut().zip(before) {
                cache.lens.fill(len);
            }
        }
        stepped
    }

    fn step_all(&self, sequences: &mut [(u32, &mut CardCache)]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for sequences in sequences.chunks_mut(MAX_BATCH) {
            let mut decoder = self.decoder();
            start_step(&mut decoder, sequences)?;
            logits.extend(decoder.logits(sequences.len())?);
        }
        Ok(logits)
    }
}

/// Runs `tokens`, and returns the hidden states of the last of them.
fn prefill(decoder: &mut Decoder, tokens: &[u32], cache: &mut CardCache) -> Result<Option<Hidden>> {
    let start = cache.lens[0];
    cache.reserve(start + tokens.len())?;
    let mut last = None;
    for (i, piece) in tokens.chunks(CHUNK).enumerate() {
        cache.cache.len = start + i * CHUNK;
        last = Some(decoder.prefill(piece, &mut cache.cache)?);
    }
    cache.lens.fill(start + tokens.len());
    Ok(last)
}

/// Has the card run a token of each of up to [`MAX_BATCH`] sequences.
fn start_step(decoder: &mut Decoder, sequences: &mut [(u32, &mut CardCache)]) -> Result<()> {
    for (_, cache) in sequences.iter_mut() {
        cache.reserve_for_step()?;
    }
    let batch = sequences.iter_mut().map(|(token, cache)| (*token, &mut cache.cache));
    decoder.step(&mut batch.collect::<Vec<_>>())?;
    for (_, cache) in sequences.iter_mut() {
        cache.stepped();
    }
    Ok(())
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

    fn reserve_for_step(&mut self) -> Result<()> {
        let len = self.lens[0];
        self.reserve(len + 1)?;
        self.cache.len = len;
        Ok(())
    }

    fn stepped(&mut self) {
        self.lens.iter_mut().for_each(|len| *len += 1);
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
