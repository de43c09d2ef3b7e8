//! A model of the architecture `llama`, of a megabyte or two: rows must hold whole blocks of 256.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::file::{RawGguf, RawTensor};
use super::kind::Kind;
use super::read::{GgufTensor, ReadGguf, read_bytes};
use super::value::Value;

/// A small model whose tensors all differ.
///
/// The fields are the keys of its metadata where they have one; a test names those that it is about:
///
/// ```
/// use testkit::gguf::{TinyGguf, read};
///
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("base.gguf");
/// TinyGguf { block_count: 2, kind: "Q8_0", ..TinyGguf::default() }.write(&path);
/// assert_eq!(read(&path).tensors["blk.1.ffn_down.weight"].kind.name, "Q8_0");
/// ```
#[derive(Debug, Clone)]
pub struct TinyGguf {
    /// The number of layers, n.
    pub block_count: usize,
    /// The width of the residual stream.
    pub embedding_length: usize,
    /// The width inside the feed-forward block.
    pub feed_forward_length: usize,
    /// The number of query heads.
    pub head_count: usize,
    /// The number of key and value heads.
    pub head_count_kv: usize,
    /// The number of tokens.
    pub vocab_size: usize,
    /// Whether the tokens stand in the metadata; else `tokenizer.ggml.model` is `no_vocab`.
    pub has_tokens: bool,
    /// Whether there is no `output.weight`.
    pub is_tied: bool,
    /// The type of matrices; norms are F32.
    pub kind: &'static str,
    /// Other types, by what stands between a layer's number and `.weight`, or by the whole name.
    pub other_kinds: Vec<(&'static str, &'static str)>,
    /// `general.alignment`; `None`: no such key, and 32.
    pub alignment: Option<u32>,
    /// The version of the file.
    pub version: u32,
    /// Keys that the metadata has besides, or instead of those that it would have.
    pub extra_keys: Vec<(&'static str, Value)>,
    /// Goes into every number: models of different seeds differ in every tensor.
    pub seed: u64,
}

impl Default for TinyGguf {
    fn default() -> Self {
        Self {
            block_count: 4,
            embedding_length: 256,
            feed_forward_length: 256,
            head_count: 4,
            head_count_kv: 2,
            vocab_size: 40,
            has_tokens: false,
            is_tied: false,
            kind: "Q4_K",
            other_kinds: vec![("attn_v", "Q6_K"), ("output.weight", "Q6_K")],
            alignment: None,
            version: 3,
            extra_keys: Vec::new(),
            seed: 0,
        }
    }
}

impl TinyGguf {
    /// The default model with matrices of one type.
    #[must_use]
    pub fn of(kind: &'static str) -> Self {
        Self { kind, other_kinds: Vec::new(), ..Self::default() }
    }

    /// The file, which a test may spoil before it writes it.
    #[must_use]
    pub fn file(&self) -> RawGguf {
        self.file_of(self.tensors())
    }

    fn file_of(&self, tensors: Vec<RawTensor>) -> RawGguf {
        let mut file = RawGguf::new(self.keys(), tensors);
        file.version = self.version;
        if let Some(alignment) = self.alignment {
            file = file.aligned(alignment);
        }
        for (key, value) in &self.extra_keys {
            file.set(key, value.clone());
        }
        file
    }

    /// Writes the file to `path`.
    pub fn write(&self, path: &Path) {
        self.file().write(path);
    }

    /// Writes a file whose tensors are one hole, so that gigabytes of them take no room on the disk.
    pub fn write_sparse(&self, path: &Path) {
        let mut end = 0;
        let alignment = u64::from(self.alignment.unwrap_or(32));
        let hole = |(name, kind, shape): (String, Kind, Vec<usize>)| {
            let offset = Some(end);
            end = (end + kind.tensor_bytes(&shape) as u64).next_multiple_of(alignment);
            let dims = shape.iter().rev().map(|&dim| dim as u64).collect();
            let (name, type_id) = (name.into_bytes(), kind.id);
            RawTensor { name, dims, type_id, offset, bytes: Vec::new() }
        };
        let tensors = self.specs().into_iter().map(hole).collect();
        let bytes = self.file_of(tensors).bytes();
        let mut file = File::create(path).expect("a file can be made");
        file.write_all(&bytes).expect("a header can be written");
        file.set_len(bytes.len() as u64 + end).expect("a file can have a hole");
    }

    /// What the file holds.
    #[must_use]
    pub fn read(&self) -> ReadGguf {
        read_bytes(&self.file().bytes())
    }

    fn keys(&self) -> Vec<(String, Value)> {
        let number = |number: usize| Value::U32(number as u32);
        let head_dim = self.embedding_length / self.head_count;
        let mut keys = vec![
            ("general.architecture", Value::text("llama")),
            ("general.type", Value::text("model")),
            ("general.name", Value::text("Tiny")),
            ("general.file_type", number(15)),
            ("llama.block_count", number(self.block_count)),
            ("llama.context_length", number(512)),
            ("llama.embedding_length", number(self.embedding_length)),
            ("llama.feed_forward_length", number(self.feed_forward_length)),
            ("llama.attention.head_count", number(self.head_count)),
            ("llama.attention.head_count_kv", number(self.head_count_kv)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("llama.rope.dimension_count", number(head_dim)),
            ("llama.vocab_size", number(self.vocab_size)),
            ("general.quantization_version", number(2)),
        ];
        if self.has_tokens {
            let token = |i: usize| match i {
                0..3 => ["<unk>", "<s>", "</s>"][i].to_owned(),
                _ => format!("<0x{:02X}>", i - 3),
            };
            let kinds = |i: usize| Value::I32([2, 3, 3].get(i).copied().unwrap_or(6));
            let all = 0..self.vocab_size;
            keys.extend([
                ("tokenizer.ggml.model", Value::text("llama")),
                (
                    "tokenizer.ggml.tokens",
                    Value::array(all.clone().map(|i| Value::text(&token(i)))),
                ),
                (
                    "tokenizer.ggml.scores",
                    Value::array(all.clone().map(|i| Value::F32(-(i as f32)))),
                ),
                ("tokenizer.ggml.token_type", Value::array(all.map(kinds))),
                ("tokenizer.ggml.bos_token_id", number(1)),
                ("tokenizer.ggml.eos_token_id", number(2)),
            ]);
        } else {
            keys.push(("tokenizer.ggml.model", Value::text("no_vocab")));
        }
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn tensors(&self) -> Vec<RawTensor> {
        let random = |(name, kind, shape): (String, Kind, Vec<usize>)| {
            RawTensor::random(&name, kind, &shape, &format!("{} {name}", self.seed))
        };
        self.specs().into_iter().map(random).collect()
    }

    /// Names, types and shapes.
    fn specs(&self) -> Vec<(String, Kind, Vec<usize>)> {
        let (hidden, inner) = (self.embedding_length, self.feed_forward_length);
        let keys = hidden / self.head_count * self.head_count_kv;
        let mut specs = vec![("token_embd.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.block_count {
            let of_layer = [
                ("attn_norm", vec![hidden]),
                ("attn_q", vec![hidden, hidden]),
                ("attn_k", vec![keys, hidden]),
                ("attn_v", vec![keys, hidden]),
                ("attn_output", vec![hidden, hidden]),
                ("ffn_norm", vec![hidden]),
                ("ffn_gate", vec![inner, hidden]),
                ("ffn_up", vec![inner, hidden]),
                ("ffn_down", vec![hidden, inner]),
            ];
            let named = |(name, shape)| (format!("blk.{layer}.{name}.weight"), shape);
            specs.extend(of_layer.map(named));
        }
        specs.push(("output_norm.weight".to_owned(), vec![hidden]));
        if !self.is_tied {
            specs.push(("output.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        let typed = |(name, shape): (String, Vec<usize>)| {
            let kind = if shape.len() == 1 { Kind::of("F32") } else { self.kind_of(&name) };
            (name, kind, shape)
        };
        specs.into_iter().map(typed).collect()
    }

    fn kind_of(&self, name: &str) -> Kind {
        let part = name.split('.').nth(2).unwrap_or(name);
        let other = self.other_kinds.iter().find(|(known, _)| *known == part);
        Kind::of(other.map_or(self.kind, |(_, kind)| kind))
    }
}

/// The tensors of a model whose layer j is layer `layers[j]` of `source`.
#[must_use]
pub fn expected(
    source: &BTreeMap<String, GgufTensor>,
    layers: &[usize],
) -> BTreeMap<String, GgufTensor> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in source {
        let Some((number, rest)) = name.strip_prefix("blk.").and_then(|it| it.split_once('.'))
        else {
            tensors.insert(name.clone(), tensor.clone());
            continue;
        };
        let number: usize = number.parse().expect("a layer's number");
        for (j, _) in layers.iter().enumerate().filter(|&(_, &layer)| layer == number) {
            tensors.insert(format!("blk.{j}.{rest}"), tensor.clone());
        }
    }
    tensors
}

/// Panics with the first few differences, unless `found` has the tensors of `expected`, byte for byte.
#[track_caller]
pub fn assert_same(found: &BTreeMap<String, GgufTensor>, expected: &BTreeMap<String, GgufTensor>) {
    let names = expected.keys().chain(found.keys().filter(|name| !expected.contains_key(*name)));
    let is_same = |name: &str| match (found.get(name), expected.get(name)) {
        (Some(found), Some(expected)) => found.is_same(expected),
        _ => false,
    };
    let differences: Vec<String> = names
        .filter(|name| !is_same(name))
        .map(|name| format!("{name}: {:?}, expected {:?}", found.get(name), expected.get(name)))
        .collect();
    let some = differences.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} tensors differ:\n{some}", differences.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::kind::KINDS;

    #[test]
    fn what_is_written_is_read() {
        for alignment in [None, Some(1), Some(64), Some(4096)] {
            let model = TinyGguf { alignment, has_tokens: true, ..TinyGguf::default() };
            let (file, read) = (model.file(), model.read());
            assert_eq!((read.version, &read.keys), (3, &file.keys));
            assert_eq!(read.tensors.len(), file.tensors.len());
            for tensor in &file.tensors {
                let name = String::from_utf8(tensor.name.clone()).unwrap();
                assert_eq!(read.tensors[&name].bytes, tensor.bytes, "{name}");
            }
        }
    }

    #[test]
    fn all_tensors_differ() {
        for kind in KINDS.iter().filter(|kind| kind.is_blocks()) {
            let model = TinyGguf::of(kind.name);
            let mut seen = BTreeMap::new();
            for seed in [0, 1] {
                for (name, tensor) in (TinyGguf { seed, ..model.clone() }).read().tensors {
                    let other = seen.insert(tensor.bytes, name.clone());
                    assert_eq!(other, None, "{name} of {}", kind.name);
                }
            }
        }
    }

    #[test]
    fn layers_are_copied_and_the_rest_stays() {
        let source = TinyGguf::default().read().tensors;
        assert_same(&expected(&source, &[0, 1, 2, 3]), &source);
        let deep = expected(&source, &[0, 1, 2, 1, 2, 3]);
        assert_eq!(deep.len(), source.len() + 2 * 9);
        assert_eq!(deep["blk.3.attn_q.weight"], source["blk.1.attn_q.weight"]);
        assert_eq!(deep["blk.5.ffn_down.weight"], source["blk.3.ffn_down.weight"]);
    }
}
