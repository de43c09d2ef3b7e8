//! Which parts of a model go to the GPU: sizes in, a plan out. It knows nothing of devices.
//!
//! The head and the last layers go to the GPU, as many as fit, and the rest stays with the processor:
//! hidden states move once, from the last layer there to the first one here. The embedding is looked
//! up and never multiplied by, so it is the first to stay behind.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::anatomy::{self, EMBEDDING, Expected};
use crate::config::DecoderConfig;
use crate::error::{Error, Result, gib};

/// Tokens of a sequence that run at once: ^C is heard between, and scores stay small.
pub(crate) const PIECE: usize = 512;

/// The scores that a GPU holds at once, in elements: 64 MiB of f32.
pub(crate) const MAX_GPU_SCORES: usize = 16 << 20;

/// The scores that the processor holds at once, in elements: 32 MiB of f32.
pub(crate) const MAX_CPU_SCORES: usize = 8 << 20;

/// What a GPU's driver and cuBLAS take when kernels first run, and what gaps between tensors come to.
const RESERVE: u64 = 448 << 20;

/// Types that weights can be rounded to at load, and the bytes of 256 weights.
const QUANTISED: [(&str, u64); 2] = [("q8_0", 8 * 34), ("q4_k", 144)];

/// How many layers go to the GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    #[default]
    Auto,
    /// So many, or all if there are fewer.
    Count(usize),
}

/// The bytes that a model's parts take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The embedding.
    pub embedding: u64,
    /// The final norm, and the head where it is not the embedding.
    pub head: u64,
    /// Whether the head is the embedding.
    pub is_tied: bool,
    /// The number of weights, those that are shared counted once.
    pub parameters: u64,
    /// The layers, the first one first.
    pub layers: Vec<LayerNeeds>,
    /// The keys and values of a layer.
    pub layer_cache: u64,
    /// Activations, scores and logits on a GPU.
    pub gpu_work: u64,
    /// The same on the processor.
    pub cpu_work: u64,
    /// Positions that the caches have room for, in all sequences.
    pub positions: usize,
}

/// The bytes that a layer's weights take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerNeeds {
    /// Tensors of its own.
    pub own: u64,
    /// Tensors that are one memory on a device with those of the same number, and the bytes of each.
    pub shared: Vec<(usize, u64)>,
}

impl Needs {
    /// What a model of `config` needs.
    ///
    /// `positions` counts those of all sequences that run at once, each element of cache and
    /// activations takes `element_bytes`, a tensor of a name and shape takes `weight_bytes`, and tensors
    /// for whose names `same_as` has the same number are one memory.
    #[must_use]
    pub fn of(
        config: &DecoderConfig,
        positions: usize,
        element_bytes: usize,
        weight_bytes: &dyn Fn(&str, &[usize]) -> u64,
        same_as: &dyn Fn(&str) -> Option<usize>,
    ) -> Self {
        let mut needs = Self {
            embedding: 0,
            head: 0,
            is_tied: config.tie_word_embeddings,
            parameters: 0,
            layers: vec![LayerNeeds::default(); config.num_hidden_layers],
            layer_cache: (2 * config.num_key_value_heads * config.head_dim * positions) as u64
                * element_bytes as u64,
            gpu_work: work(config, positions as u64, MAX_GPU_SCORES as u64) + RESERVE,
            cpu_work: work(config, positions as u64, MAX_CPU_SCORES as u64),
            positions,
        };
        let mut known = HashSet::new();
        for Expected { name, shape } in anatomy::expected(config) {
            let (bytes, same_as) = (weight_bytes(&name, &shape), same_as(&name));
            if same_as.is_none_or(|number| known.insert(number)) {
                needs.parameters += shape.iter().product::<usize>() as u64;
            }
            match (anatomy::layer_of(&name), same_as) {
                (Some(layer), None) => needs.layers[layer].own += bytes,
                (Some(layer), Some(number)) => needs.layers[layer].shared.push((number, bytes)),
                (None, _) if name == EMBEDDING => needs.embedding += bytes,
                (None, _) => needs.head += bytes,
            }
        }
        needs
    }

    /// The bytes of all weights in one memory.
    #[must_use]
    pub fn weights(&self) -> u64 {
        self.embedding + self.head + self.layer_weights(0, self.layers.len())
    }

    /// The bytes of the layers' weights from `first` up to `end`, what is shared counted once.
    fn layer_weights(&self, first: usize, end: usize) -> u64 {
        let mut known = HashSet::new();
        let layers = &self.layers[first..end];
        let own: u64 = layers.iter().map(|layer| layer.own).sum();
        let shared = layers.iter().flat_map(|layer| &layer.shared);
        own + shared
            .filter(|(number, _)| known.insert(*number))
            .map(|(_, bytes)| bytes)
            .sum::<u64>()
    }
}

/// Activations of a piece of the prompt, its scores, keys and values in f32, and some rows of logits.
fn work(config: &DecoderConfig, positions: u64, max_scores: u64) -> u64 {
    let rows = positions.min(PIECE as u64);
    let heads = config.num_attention_heads as u64;
    let keys = (config.num_key_value_heads * config.head_dim) as u64;
    let streams = 4 * config.hidden_size as u64;
    let queries = 4 * heads * config.head_dim as u64;
    let inner = 3 * config.intermediate_size as u64;
    let scores = 3 * (heads * rows * positions).min(max_scores);
    let logits = 3 * 64 * config.vocab_size as u64;
    4 * (rows * (streams + queries + inner) + scores + 4 * keys * positions + logits)
}

/// Memory that is free, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// A GPU's name and what it has free, if there is one to be used; free is `None` if unknown.
    pub gpu: Option<(String, Option<u64>)>,
    /// What the processor's memory has free, where that is known.
    pub cpu: Option<u64>,
}

/// The bytes that one device is to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Weights.
    pub weights: u64,
    /// Keys and values.
    pub cache: u64,
    /// Activations; on a GPU what its driver takes, too.
    pub work: u64,
}

impl Share {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.work
    }
}

/// Which parts go where, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The number of layers.
    pub num_layers: usize,
    /// The first layer on the GPU; `num_layers` if none is there.
    pub first_gpu_layer: usize,
    /// Whether the embedding is on the GPU.
    pub embedding_on_gpu: bool,
    /// What the GPU holds.
    pub gpu: Share,
    /// What the processor holds.
    pub cpu: Share,
    /// What is free.
    pub memory: Memory,
    /// Positions that there is room for.
    pub positions: usize,
    /// What would let the GPU do all the work, where it does a part.
    pub advice: Option<String>,
}

/// Decides where the parts of a model go.
///
/// The error is that of a count of layers which the GPU has no room for.
pub fn plan(needs: &Needs, memory: &Memory, gpu_layers: GpuLayers) -> Result<Plan> {
    let all = needs.layers.len();
    let Some((name, free)) = &memory.gpu else { return Ok(Plan::new(needs, memory, 0, false)) };
    let GpuLayers::Count(count) = gpu_layers else {
        let mut plan = most_that_fits(needs, memory);
        plan.advice = plan.is_split().then(|| what_fits(needs, memory).join("; "));
        return Ok(plan);
    };
    let count = count.min(all);
    // All on the GPU is one memory less to look after; next comes all that is multiplied by.
    let with_embedding = Plan::new(needs, memory, count, count == all);
    let plan = Plan::new(needs, memory, count, false);
    [with_embedding, plan.clone()].into_iter().find(Plan::fits).ok_or_else(|| {
        let mut fits = what_fits(needs, memory);
        let on_gpu = all - most_that_fits(needs, memory).first_gpu_layer;
        fits.push(format!("--gpu-layers auto puts {on_gpu} of {all} layers there"));
        Error::DoesNotFit {
            device: name.clone(),
            what: layers(plan.first_gpu_layer, all),
            needed: plan.gpu.total(),
            free: free.unwrap_or(0),
            fits: fits.join("; "),
        }
    })
}

fn most_that_fits(needs: &Needs, memory: &Memory) -> Plan {
    let all = needs.layers.len();
    let with_embedding = Plan::new(needs, memory, all, true);
    let plans = (0..=all).rev().map(|count| Plan::new(needs, memory, count, false));
    // Nothing on the GPU always fits.
    let fitting = [with_embedding].into_iter().chain(plans).find(Plan::fits);
    fitting.unwrap_or_else(|| Plan::new(needs, memory, 0, false))
}

/// What of a model fits a GPU that does not hold all of it, as advice.
fn what_fits(needs: &Needs, memory: &Memory) -> Vec<String> {
    let mut fits = Vec::new();
    let whole = Plan::new(needs, memory, needs.layers.len(), true).gpu;
    let free = memory.gpu.as_ref().and_then(|(_, free)| *free).unwrap_or(0);
    for (name, block_bytes) in QUANTISED {
        let weights = needs.parameters * block_bytes / 256;
        let total = whole.total() - whole.weights + weights;
        if weights < whole.weights && total <= free {
            fits.push(format!("--quantize {name} takes {} there", gib(total)));
        }
    }
    fits.push("an up-scaled model that is run unbuilt takes its base's memory".to_owned());
    fits
}

impl Plan {
    fn new(needs: &Needs, memory: &Memory, on_gpu: usize, embedding_on_gpu: bool) -> Self {
        let all = needs.layers.len();
        let first = all - on_gpu;
        let head_on_gpu = on_gpu > 0;
        let embedding_on_gpu = embedding_on_gpu || needs.is_tied && head_on_gpu;
        let if_there = |is_there: bool, bytes: u64| if is_there { bytes } else { 0 };
        Self {
            num_layers: all,
            first_gpu_layer: first,
            embedding_on_gpu,
            gpu: Share {
                weights: needs.layer_weights(first, all)
                    + if_there(head_on_gpu, needs.head)
                    + if_there(embedding_on_gpu, needs.embedding),
                cache: on_gpu as u64 * needs.layer_cache,
                work: if_there(head_on_gpu, needs.gpu_work),
            },
            cpu: Share {
                weights: needs.layer_weights(0, first)
                    + if_there(!head_on_gpu, needs.head)
                    + if_there(!embedding_on_gpu, needs.embedding),
                cache: first as u64 * needs.layer_cache,
                work: if_there(first > 0, needs.cpu_work),
            },
            memory: memory.clone(),
            positions: needs.positions,
            advice: None,
        }
    }

    fn fits(&self) -> bool {
        let free = self.memory.gpu.as_ref().and_then(|(_, free)| *free);
        free.is_none_or(|free| self.gpu.total() <= free)
    }

    /// Whether the final norm and the head are on the GPU: where the last layer is.
    #[must_use]
    pub fn head_on_gpu(&self) -> bool {
        self.first_gpu_layer < self.num_layers
    }

    /// Whether there is a GPU that holds a part of the layers only.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.memory.gpu.is_some() && self.first_gpu_layer > 0
    }

    /// The plan in lines: what each device is to hold, of what it has free.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("placement, with room for {} positions:\n", self.positions);
        let mut line = |name: &str, parts: String, share: &Share, free: Option<u64>| {
            let (weights, cache, work) = (gib(share.weights), gib(share.cache), gib(share.work));
            let free = match free {
                Some(free) if share.total() > free => format!(", more than the {} free", gib(free)),
                Some(free) => format!(" of {} free", gib(free)),
                None => String::new(),
            };
            let _ = writeln!(
                text,
                "  {name:<7} {parts}: {weights} weights + {cache} cache + {work} work = {}{free}",
                gib(share.total()),
            );
        };
        let parts = |embedding: bool, first: usize, end: usize, head: bool| {
            let mut parts = Vec::new();
            parts.extend(embedding.then(|| "embedding".to_owned()));
            parts.extend((first < end).then(|| layers(first, end)));
            parts.extend(head.then(|| "head".to_owned()));
            parts.join(", ")
        };
        let (first, all, head) = (self.first_gpu_layer, self.num_layers, self.head_on_gpu());
        if let Some((name, free)) = &self.memory.gpu {
            let holds = if head {
                parts(self.embedding_on_gpu, first, all, true)
            } else {
                "nothing".to_owned()
            };
            line(name, holds, &self.gpu, *free);
        }
        if self.cpu.total() > 0 {
            line("cpu", parts(!self.embedding_on_gpu, 0, first, !head), &self.cpu, self.memory.cpu);
        }
        if let Some(advice) = &self.advice {
            let _ = writeln!(text, "  for all of it on the GPU: {advice}");
        }
        text
    }
}

fn layers(first: usize, end: usize) -> String {
    format!("layers {first}..{end}")
}

#[cfg(test)]
mod tests;
