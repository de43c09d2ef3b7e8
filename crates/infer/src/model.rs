//! A decoder with its weights: tokens to hidden states, and hidden states to logits.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::rms_norm;

use crate::cache::KvCache;
use crate::card::{self, Card, CardCache, CardHistory, Choosing, Flight};
use crate::config::DecoderConfig;
use crate::device::Devices;
use crate::error::{Error, Result};
use crate::footprint::PIECE;
use crate::layer::{Layer, Rows, Turns};
use crate::parts::{Head, Loader, Parts, check_tensors};
use crate::progress::{Unit, Watch};
use crate::sampling::Sampling;
use crate::source::WeightSource;
use crate::weight::Weight;

/// A decoder that is ready to run.
#[derive(Debug)]
pub struct Model {
    config: DecoderConfig,
    /// Of these none is here that the card has.
    embedding: Option<Weight>,
    layers: Vec<Layer>,
    head: Option<Head>,
    card: Option<Card>,
    inverse_frequencies: Vec<f32>,
    dtype: DType,
    devices: Devices,
    notes: Vec<String>,
}

/// New tokens of a sequence, and the cache that holds those before them.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// The new tokens; at least one.
    pub tokens: &'a [u32],
    /// The keys and values of the tokens before them.
    pub cache: &'a mut KvCache,
}

impl Model {
    /// Loads the decoder that `config` describes, its parts onto `devices`.
    ///
    /// Names and shapes of all tensors are checked before the first is read: errors are those of a
    /// missing tensor, one that the config does not account for, one of another shape, and that of a
    /// device without room.
    pub fn load(
        config: DecoderConfig,
        source: &dyn WeightSource,
        devices: Devices,
        watch: &Watch,
    ) -> Result<Self> {
        let (has_own_head, mut notes) = check_tensors(&config, source)?;
        notes.extend(source.notes());
        let bytes = source.names().iter().map(|name| source.stored_bytes(name)).sum();
        watch.begin("loading", bytes, Unit::Bytes);
        let loader = Loader { source, watch, config: &config };
        let parts = loader.parts(&devices, has_own_head);
        let Parts { embedding, layers, head, card } =
            parts.map_err(|error| devices.explained(error))?;
        notes.extend(card.iter().flat_map(Card::notes));
        Ok(Self {
            inverse_frequencies: config.rope.inverse_frequencies(config.head_dim),
            embedding,
            layers,
            head,
            card,
            dtype: source.dtype(),
            devices,
            notes,
            config,
        })
    }

    /// The sizes and switches.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What a user should hear of the files.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The bytes of matrices that a step reads: all but the embedding's, of which it takes rows.
    #[must_use]
    pub fn step_bytes(&self) -> u64 {
        let head = self.head.as_ref().map_or(0, |head| head.matrix.bytes());
        let on_card = self.card.as_ref().map_or(0, Card::step_bytes);
        self.layers.iter().map(Layer::bytes).sum::<u64>() + head + on_card
    }

    /// An empty cache with room for `capacity` positions.
    pub fn cache(&self, capacity: usize) -> Result<KvCache> {
        let card = self.card.as_ref().map(|card| card.cache(capacity)).transpose();
        let card = card.map_err(|error| self.devices.explained(error))?;
        let devices = &self.devices.layers[..self.layers.len()];
        let made = KvCache::new(&self.config, capacity, self.dtype, devices, card);
        made.map_err(|error| self.devices.explained(error.into()))
    }

    /// A copy of a cache that goes its own way.
    pub fn fork(&self, cache: &KvCache) -> Result<KvCache> {
        cache.fork().map_err(|error| self.devices.explained(error))
    }

    /// Runs `tokens` behind those that `cache` holds, and returns their hidden states after the last
    /// layer, (n, `hidden_size`). After an error the cache holds what it held.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        self.forward_batch(&mut [Sequence { tokens, cache }])
    }

    /// As [`Model::forward`] for several sequences of any lengths from 1 on; their rows follow each other.
    pub fn forward_batch(&self, sequences: &mut [Sequence]) -> Result<Tensor> {
        if sequences.iter().any(|sequence| sequence.tokens.is_empty()) {
            return Err(Error::EmptyPrompt);
        }
        let tokens: Vec<u32> =
            sequences.iter().flat_map(|sequence| sequence.tokens).copied().collect();
        let hidden = self.embed(&tokens)?;
        let rows = sequences.iter_mut().map(|sequence| Rows {
            num_tokens: sequence.tokens.len(),
            cache: &mut *sequence.cache,
        });
        self.run(0..self.config.num_hidden_layers, hidden, &mut rows.collect::<Vec<_>>())
    }

    /// The embeddings of `tokens`, (n, `hidden_size`): what the first layer gets.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.check_tokens(tokens)?;
        match (&self.embedding, &self.card) {
            (Some(embedding), _) => {
                let indices = Tensor::new(tokens, &self.devices.embedding)?;
                Ok(embedding.rows(&indices)?)
            }
            (None, Some(card)) => card.embed(tokens).map_err(|error| self.devices.explained(error)),
            (None, None) => unreachable!("the embedding is here if it is not on a card"),
        }
    }

    /// Tokens of a prompt that should run at once: a caller hears of ^C between pieces of so many.
    #[must_use]
    pub fn piece(&self) -> usize {
        if self.whole_card().is_some() { card::PIECE } else { PIECE }
    }

    /// Whether layers lie on a GPU with kernels of our own.
    pub(crate) fn has_card(&self) -> bool {
        self.card.is_some()
    }

    /// The card, if all of the model is there.
    fn whole_card(&self) -> Option<&Card> {
        self.card.as_ref().filter(|card| card.first_layer() == 0 && card.has_embedding())
    }

    /// Runs `tokens` behind those that `cache` holds, for those that come after them.
    pub fn feed(&self, tokens: &[u32], cache: &mut KvCache) -> Result<()> {
        if let (Some(card), Some(on_card)) = (self.whole_card(), cache.card()) {
            self.check_tokens(tokens)?;
            self.check_room(on_card.lens()[0] + tokens.len())?;
            return card.feed(tokens, on_card).map_err(|error| self.devices.explained(error));
        }
        self.forward(tokens, cache).map(|_| ())
    }

    /// The logits behind the last of `tokens`, which run behind those that `cache` holds.
    pub fn prompt_logits(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        if let (Some(card), Some(on_card)) = (self.whole_card(), cache.card()) {
            self.check_tokens(tokens)?;
            self.check_room(on_card.lens()[0] + tokens.len())?;
            let logits = card.prompt_logits(tokens, on_card);
            return logits.map_err(|error| self.devices.explained(error));
        }
        let hidden = self.forward(tokens, cache)?;
        Ok(self.logits(&hidden.narrow(0, tokens.len() - 1, 1)?)?.flatten_all()?.to_vec1()?)
    }

    /// Runs one new token of each of some sequences, and returns the logits behind them, one row of
    /// `vocab_size` after the other.
    pub fn step(&self, sequences: &mut [Sequence]) -> Result<Vec<f32>> {
        let Some(card) = self.whole_card() else {
            if let Some(card) = &self.card {
                return self.split_step(card, sequences);
            }
            let hidden = self.forward_batch(sequences)?;
            return Ok(self.logits(&hidden)?.flatten_all()?.to_vec1()?);
        };
        card.step(&mut self.on_card(sequences)?).map_err(|error| self.devices.explained(error))
    }

    /// Sequences of one new token each, as a card that has all of the model takes them.
    fn on_card<'a>(&self, sequences: &'a mut [Sequence]) -> Result<Vec<(u32, &'a mut CardCache)>> {
        let mut batch = Vec::with_capacity(sequences.len());
        for Sequence { tokens, cache } in sequences {
            let &[token] = *tokens else { return Err(Error::EmptyPrompt) };
            self.check_tokens(&[token])?;
            if let Some(on_card) = cache.card() {
                self.check_room(on_card.lens()[0] + 1)?;
                batch.push((token, on_card));
            }
        }
        Ok(batch)
    }

    /// The card that chooses next tokens where it has their logits, if all of the model is there.
    fn chooser(&self) -> Option<&Card> {
        self.whole_card().filter(|card| card.can_choose())
    }

    /// Steps that choose their tokens where the logits are, if that is on a card.
    pub(crate) fn flight(&self) -> Option<Flight<'_>> {
        self.chooser()?.flight()
    }

    /// Has a card run a token of each of up to eight sequences and choose the next ones: of `tokens`, or of those
    /// that were chosen last, for the same sequences. [`Flight::finish`] waits for them.
    pub(crate) fn start(
        &self,
        flight: &mut Flight,
        tokens: Option<&[u32]>,
        caches: &mut [&mut KvCache],
        choosing: &mut [Choosing],
    ) -> Result<()> {
        if let Some(tokens) = tokens {
            self.check_tokens(tokens)?;
        }
        let mut on_card = Vec::with_capacity(caches.len());
        for cache in caches.iter_mut().filter_map(|cache| cache.card()) {
            self.check_room(cache.lens()[0] + 1)?;
            on_card.push(cache);
        }
        let started = flight.start(tokens, &mut on_card, choosing);
        started.map_err(|error| self.devices.explained(error))
    }

    /// The error of `tokens` whose logits are not finite, which are run once more for that.
    pub(crate) fn not_finite(&self, tokens: &[u32]) -> Error {
        match self.first_not_finite(tokens) {
            Ok(place) => Error::NotFinite { place },
            Err(error) => error,
        }
    }

    /// What has occurred in the sequence of the tokens `prompt` and `new`, if choices are made on a card and
    /// it matters for them; steps keep it.
    pub(crate) fn history(
        &self,
        sampling: &Sampling,
        tokens: [&[u32]; 2],
    ) -> Result<Option<CardHistory>> {
        let history = self.chooser().map_or(Ok(None), |card| card.history(sampling, tokens));
        history.map_err(|error| self.devices.explained(error))
    }

    /// The same where the first layers are here and the others on `card`.
    fn split_step(&self, card: &Card, sequences: &mut [Sequence]) -> Result<Vec<f32>> {
        let tokens: Vec<u32> =
            sequences.iter().flat_map(|sequence| sequence.tokens).copied().collect();
        if tokens.len() != sequences.len() {
            return Err(Error::EmptyPrompt);
        }
        let here = 0..card.first_layer();
        let hidden = self.embed(&tokens)?;
        let mut rows: Vec<Rows> = sequences
            .iter_mut()
            .map(|sequence| Rows { num_tokens: 1, cache: &mut *sequence.cache })
            .collect();
        for rows in &rows {
            self.check_room(rows.cache.layer_len(here.end) + 1)?;
        }
        let before: Vec<Vec<usize>> =
            rows.iter().map(|rows| rows.cache.lens(here.clone())).collect();
        let hidden = self.run(here.clone(), hidden, &mut rows)?;
        let mut caches: Vec<_> = rows.iter_mut().filter_map(|rows| rows.cache.card()).collect();
        let stepped = card.step_from(&hidden, &mut caches);
        if stepped.is_err() {
            for (rows, lens) in rows.iter_mut().zip(&before) {
                rows.cache.take_back(here.clone(), lens);
            }
        }
        stepped.map_err(|error| self.devices.explained(error))
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        match tokens.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(Error::NoSuchToken { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn check_room(&self, needed: usize) -> Result<()> {
        let available = self.config.max_position_embeddings;
        if needed > available { Err(Error::TooManyTokens { needed, available }) } else { Ok(()) }
    }

    /// Runs `hidden`, (n, `hidden_size`), through a stretch of layers; positions follow those that
    /// `cache` holds for its first layer. After an error the cache holds what it held.
    pub fn forward_layers(
        &self,
        layers: Range<usize>,
        hidden: Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (num_tokens, _) = hidden.dims2()?;
        self.run(layers, hidden, &mut [Rows { num_tokens, cache }])
    }

    /// The logits of the tokens behind `hidden`'s rows: (n, `hidden_size`) to (n, `vocab_size`), in f32.
    ///
    /// Rows are hidden states of any positions: for one of many, take it before this.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = match (&self.head, &self.card) {
            (Some(head), _) => on_pool(|| {
                let eps = self.config.rms_norm_eps as f32;
                let hidden = hidden.to_device(&self.devices.head)?.contiguous()?;
                let normed = rms_norm(&hidden, &head.norm, eps)?;
                let logits = head.matrix.forward(&normed)?.to_dtype(DType::F32)?;
                if !head.matrix.loses_nan() {
                    return Ok(logits);
                }
                let nothing = (normed.to_dtype(DType::F32)? * 0.0)?.sum_keepdim(1)?;
                Ok(logits.broadcast_add(&nothing)?)
            }),
            (None, Some(card)) => card.logits(hidden).and_then(|logits| {
                let shape = (hidden.dims()[0], self.config.vocab_size);
                Ok(Tensor::from_vec(logits, shape, &Device::Cpu)?)
            }),
            (None, None) => unreachable!("the head is here if it is not on a card"),
        };
        logits.map_err(|error| self.devices.explained(error))
    }

    /// The logits of `hidden`'s rows one after the other, which must all be finite.
    ///
    /// `tokens_of` gives all tokens of the sequence that a row belongs to: where its logits are not
    /// finite, they are run once more to find the layer that is to blame.
    pub fn finite_logits(
        &self,
        hidden: &Tensor,
        tokens_of: impl Fn(usize) -> Vec<u32>,
    ) -> Result<Vec<f32>> {
        self.finite(self.logits(hidden)?.flatten_all()?.to_vec1::<f32>()?, tokens_of)
    }

    /// `logits`, rows of `vocab_size`, if they are finite; `tokens_of` as for [`Model::finite_logits`].
    pub fn finite(
        &self,
        logits: Vec<f32>,
        tokens_of: impl Fn(usize) -> Vec<u32>,
    ) -> Result<Vec<f32>> {
        match logits.chunks(self.config.vocab_size).position(|row| !is_finite(row)) {
            None => Ok(logits),
            Some(row) => Err(Error::NotFinite { place: self.first_not_finite(&tokens_of(row))? }),
        }
    }

    /// What is the first to give numbers that are not finite, running `tokens` from the start.
    fn first_not_finite(&self, tokens: &[u32]) -> Result<String> {
        let finite = |x: &Tensor| -> Result<bool> {
            Ok(is_finite(&x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
        };
        let mut cache = self.cache(tokens.len())?;
        // Later tokens may be to blame in an earlier layer, and need no layer behind it.
        let num_layers = self.config.num_hidden_layers;
        let mut end = num_layers;
        for piece in tokens.chunks(PIECE) {
            let mut hidden = self.embed(piece)?;
            if !finite(&hidden)? {
                return Ok("the embedding".to_owned());
            }
            for layer in 0..end {
                hidden = self.forward_layers(layer..layer + 1, hidden, &mut cache)?;
                if !finite(&hidden)? {
                    end = layer;
                    break;
                }
            }
        }
        Ok(if end < num_layers {
            format!("layer {end}")
        } else {
            "the final norm or the head".to_owned()
        })
    }

    fn run(&self, layers: Range<usize>, hidden: Tensor, rows: &mut [Rows]) -> Result<Tensor> {
        let num_layers = self.config.num_hidden_layers;
        if layers.start > layers.end || layers.end > num_layers {
            return Err(Error::NoSuchLayers { range: layers, num_layers });
        }
        if layers.is_empty() {
            return Ok(hidden);
        }
        let before: Vec<Vec<usize>> =
            rows.iter().map(|rows| rows.cache.lens(layers.clone())).collect();
        let ran = on_pool(|| self.run_layers(layers.clone(), hidden, rows));
        if ran.is_err() {
            for (rows, lens) in rows.iter_mut().zip(&before) {
                rows.cache.take_back(layers.clone(), lens);
            }
        }
        ran.map_err(|error| self.devices.explained(error))
    }

    fn run_layers(
        &self,
        layers: Range<usize>,
        mut hidden: Tensor,
        rows: &mut [Rows],
    ) -> Result<Tensor> {
        let mut positions = Vec::with_capacity(hidden.dims()[0]);
        for rows in &*rows {
            let start = rows.cache.layer_len(layers.start);
            let needed = start + rows.num_tokens;
            self.check_room(needed)?;
            positions.extend(start..needed);
        }
        let here = self.layers.len().clamp(layers.start, layers.end);
        // A card has angles of its own.
        let mut turns = self.turns(if layers.start < here { &positions } else { &[] })?;
        if layers.start < here {
            // What a card looked up is in f32.
            hidden = hidden.to_dtype(self.dtype)?;
        }
        for layer in layers.start..here {
            // At the border between two devices these are copies, elsewhere the same memory.
            hidden = hidden.to_device(&self.devices.layers[layer])?;
            turns = turns.to_device(&self.devices.layers[layer])?;
            hidden = self.layers[layer].forward(layer, &hidden, &turns, rows)?;
        }
        match &self.card {
            Some(card) if here < layers.end => run_on_card(card, here..layers.end, &hidden, rows),
            _ => Ok(hidden),
        }
    }

    fn turns(&self, positions: &[usize]) -> Result<Turns> {
        let shape = (positions.len(), self.config.head_dim / 2);
        let positions = positions.iter().copied();
        let angles = self.config.rope.angles(&self.inverse_frequencies, positions);
        Ok(Turns {
            cos: Tensor::from_vec(angles.cos, shape, &Device::Cpu)?,
            sin: Tensor::from_vec(angles.sin, shape, &Device::Cpu)?,
        })
    }
}

/// Runs `hidden` through layers that a card has, sequence by sequence.
fn run_on_card(
    card: &Card,
    layers: Range<usize>,
    hidden: &Tensor,
    rows: &mut [Rows],
) -> Result<Tensor> {
    let layers = layers.start - card.first_layer()..layers.end - card.first_layer();
    let mut first = 0;
    let mut all = Vec::with_capacity(rows.len());
    for rows in rows {
        let own = hidden.narrow(0, first, rows.num_tokens)?;
        first += rows.num_tokens;
        if let Some(cache) = rows.cache.card() {
            all.push(card.forward_layers(layers.clone(), &own, cache)?);
        }
    }
    Ok(Tensor::cat(&all, 0)?)
}

/// Calls `f` on a thread of the pool that products and norms are shared out by.
///
/// From any other thread each of them, some 500 for a token, would wake the pool and wait for it.
fn on_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

fn is_finite(numbers: &[f32]) -> bool {
    // A sum of zeros times each is NaN as soon as one is not finite, and needs no branch.
    numbers.iter().map(|x| x * 0.0).sum::<f32>() == 0.0
}
