//! What a decoder takes in memory, told from its config: weights, keys and values, and work.
//!
//! It knows nothing of devices. What does not depend on them is counted here, once for all that ask.

use std::collections::HashSet;
use std::ops::Range;

use crate::anatomy::{self, EMBEDDING, Expected};
use crate::config::DecoderConfig;

/// Tokens of a sequence that run at once: ^C is heard between, and scores stay small.
pub(crate) const PIECE: usize = 512;

/// The scores that a GPU holds at once, in elements: 64 MiB of f32.
pub(crate) const MAX_GPU_SCORES: usize = 16 << 20;

/// The scores that the processor holds at once, in elements: 32 MiB of f32.
pub(crate) const MAX_CPU_SCORES: usize = 8 << 20;

/// Rows of logits that are held at once.
const LOGITS_ROWS: u64 = 64;

/// What a GPU's driver and cuBLAS take when kernels first run, and what gaps between tensors come to.
pub(crate) const RESERVE: u64 = 448 << 20;

/// The bytes that a model's parts take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// The embedding.
    pub embedding_bytes: u64,
    /// The final norm, and the head where it is not the embedding.
    pub head_bytes: u64,
    /// Whether the head is the embedding.
    pub is_tied: bool,
    /// The number of weights, those that are shared counted once.
    pub num_parameters: u64,
    /// All weights in one memory if they were quantised as they are loaded, by the name of the type.
    pub quantised_bytes: Vec<(&'static str, u64)>,
    /// The layers, the first one first.
    pub layers: Vec<LayerFootprint>,
    /// The keys and values of one position in one layer.
    pub position_bytes: u64,
    /// Positions that the caches have room for, in all sequences.
    pub positions: usize,
    /// Activations, scores and logits on a GPU, and what its driver takes; at most, and an estimate.
    pub gpu_work_bytes: u64,
    /// The same on the processor.
    pub cpu_work_bytes: u64,
}

/// The bytes that a layer's weights take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerFootprint {
    /// Tensors of its own.
    pub own_bytes: u64,
    /// Tensors that are one memory on a device with those of the same number, and the bytes of each.
    pub shared: Vec<(usize, u64)>,
}

impl Footprint {
    /// That of the decoder which `config` describes.
    ///
    /// `positions` counts those that the caches of all sequences have room for, each element of their keys and values
    /// takes `element_bytes`, a tensor of a name and shape takes `weight_bytes`, and tensors for whose
    /// names `same_as` has the same number are one memory. What quantised weights would take is left empty.
    #[must_use]
    pub fn new(
        config: &DecoderConfig,
        positions: usize,
        element_bytes: usize,
        weight_bytes: &dyn Fn(&str, &[usize]) -> u64,
        same_as: &dyn Fn(&str) -> Option<usize>,
    ) -> Self {
        let mut footprint = Self {
            embedding_bytes: 0,
            head_bytes: 0,
            is_tied: config.tie_word_embeddings,
            num_parameters: 0,
            quantised_bytes: Vec::new(),
            layers: vec![LayerFootprint::default(); config.num_hidden_layers],
            position_bytes: (2 * config.num_key_value_heads * config.head_dim * element_bytes)
                as u64,
            positions,
            gpu_work_bytes: work_bytes(config, positions as u64, MAX_GPU_SCORES as u64) + RESERVE,
            cpu_work_bytes: work_bytes(config, positions as u64, MAX_CPU_SCORES as u64),
        };
        let mut known = HashSet::new();
        for Expected { name, shape } in anatomy::expected(config) {
            let (bytes, same_as) = (weight_bytes(&name, &shape), same_as(&name));
            if same_as.is_none_or(|number| known.insert(number)) {
                footprint.num_parameters += shape.iter().product::<usize>() as u64;
            }
            match (anatomy::layer_of(&name), same_as) {
                (Some(layer), None) => footprint.layers[layer].own_bytes += bytes,
                (Some(layer), Some(number)) => footprint.layers[layer].shared.push((number, bytes)),
                (None, _) if name == EMBEDDING => footprint.embedding_bytes += bytes,
                (None, _) => footprint.head_bytes += bytes,
            }
        }
        footprint
    }

    /// All weights in one memory.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let layers = self.layer_bytes(0..self.layers.len());
        self.embedding_bytes + self.head_bytes + layers.iter().sum::<u64>()
    }

    /// What each of these layers adds to a memory that has those of them before it: what is shared
    /// counts where it comes first.
    #[must_use]
    pub fn layer_bytes(&self, layers: Range<usize>) -> Vec<u64> {
        let mut known = HashSet::new();
        let mut added = |layer: &LayerFootprint| {
            let new = layer.shared.iter().filter(|(number, _)| known.insert(*number));
            layer.own_bytes + new.map(|(_, bytes)| bytes).sum::<u64>()
        };
        self.layers[layers].iter().map(&mut added).collect()
    }

    /// The keys and values of so many positions in all layers.
    #[must_use]
    pub fn cache_bytes(&self, positions: usize) -> u64 {
        self.position_bytes * (self.layers.len() * positions) as u64
    }
}

/// Activations of a piece of the prompt, its scores, keys and values in f32, and some rows of logits.
fn work_bytes(config: &DecoderConfig, positions: u64, max_scores: u64) -> u64 {
    let rows = positions.min(PIECE as u64);
    let heads = config.num_attention_heads as u64;
    let keys = (config.num_key_value_heads * config.head_dim) as u64;
    let streams = 4 * config.hidden_size as u64;
    let queries = 4 * heads * config.head_dim as u64;
    let inner = 3 * config.intermediate_size as u64;
    let scores = 3 * (heads * rows * positions).min(max_scores);
    let logits = 3 * LOGITS_ROWS * config.vocab_size as u64;
    4 * (rows * (streams + queries + inner) + scores + 4 * keys * positions + logits)
}
