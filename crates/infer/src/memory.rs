//! What a decoder takes in memory, told from its config, and what this machine has.

use std::path::Path;

use candle_core::DType;

use crate::anatomy::{self, EMBEDDING, Expected, HEAD, NORM};
use crate::config::DecoderConfig;

/// Tokens that run at once while a prompt is read.
const PIECE: usize = 512;

/// Scores of attention that are held at once: 32 MiB, beside as much again while they are made.
const SCORES_BYTES: u64 = 64 << 20;

/// Rows of logits that are held at once.
const LOGITS_ROWS: usize = 64;

/// The bytes that a decoder's parts take in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// The embedding.
    pub embedding_bytes: u64,
    /// Each layer.
    pub layer_bytes: Vec<u64>,
    /// The final norm, and the head where that is not the embedding.
    pub head_bytes: u64,
    /// The keys and values of one position, in each layer alike.
    pub cache_bytes_per_layer: u64,
    /// What is held beside these while tokens run: activations, scores, logits; an estimate, from above.
    pub work_bytes: u64,
}

impl Footprint {
    /// The footprint of the decoder that `config` describes, whose tensors take what `bytes` says;
    /// keys and values are of type `cache`.
    pub fn new(config: &DecoderConfig, bytes: impl Fn(&Expected) -> u64, cache: DType) -> Self {
        let mut footprint = Self {
            embedding_bytes: 0,
            layer_bytes: vec![0; config.num_hidden_layers],
            head_bytes: 0,
            cache_bytes_per_layer: cache_bytes_per_layer(config, cache),
            work_bytes: work_bytes(config),
        };
        for tensor in anatomy::expected(config) {
            let part = match tensor.name.as_str() {
                EMBEDDING => &mut footprint.embedding_bytes,
                NORM | HEAD => &mut footprint.head_bytes,
                name => match anatomy::layer_of(name) {
                    Some(layer) => &mut footprint.layer_bytes[layer],
                    None => &mut footprint.head_bytes,
                },
            };
            *part += bytes(&tensor);
        }
        footprint
    }

    /// All weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.embedding_bytes + self.layer_bytes.iter().sum::<u64>() + self.head_bytes
    }

    /// The keys and values of `positions` positions in all layers.
    #[must_use]
    pub fn cache_bytes(&self, positions: usize) -> u64 {
        self.cache_bytes_per_layer * self.layer_bytes.len() as u64 * positions as u64
    }
}

fn cache_bytes_per_layer(config: &DecoderConfig, dtype: DType) -> u64 {
    let width = config.num_key_value_heads * config.head_dim;
    (2 * width * dtype.size_in_bytes()) as u64
}

/// Activations of a piece of a prompt in f32, with the residual, norms and products side by side.
fn work_bytes(config: &DecoderConfig) -> u64 {
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let row = 4 * config.hidden_size + 3 * config.intermediate_size + 3 * queries + 4 * keys;
    let logits = LOGITS_ROWS * config.vocab_size;
    (4 * (PIECE * row + logits)) as u64 + SCORES_BYTES
}

/// The bytes of this machine's memory that a process may still take; `None` where nobody says.
///
/// That is what the system has, or what the process's control group leaves, whichever is less.
#[must_use]
pub fn free_bytes() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let group = Path::new("/sys/fs/cgroup");
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
    };
    // "max" is no number: there is no bound.
    let left =
        number("memory.max").and_then(|max| Some(max.saturating_sub(number("memory.current")?)));
    match (system, left) {
        (Some(system), Some(left)) => Some(system.min(left)),
        (system, left) => system.or(left),
    }
}

/// `MemAvailable` of `/proc/meminfo`, which counts in KiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:  100 kB\nMemFree:  7 kB\nMemAvailable:   42 kB\n";
        assert_eq!(available(text), Some(43_008));
        let meminfo = "MemTotal:       16265572 kB\nMemAvailable:    9843016 kB\n";
        assert_eq!(available(meminfo), Some(9_843_016 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }
}
