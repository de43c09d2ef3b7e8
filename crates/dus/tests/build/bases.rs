//! Bases that no family table knows, written byte by byte.

#![allow(dead_code, reason = "each of the four test programs uses a part of it")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use testkit::raw::{self, RawFile};
use testkit::tensor::Random;
use testkit::{Dtype, Tensor, weights};

/// A tensor of random bytes, whatever `dtype` makes of them, that follow from its name.
pub(crate) fn bytes(name: &str, dtype: Dtype, shape: &[usize]) -> (String, Tensor) {
    let mut random = Random::new(name);
    let num_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    let bytes: Vec<u8> = match dtype {
        Dtype::BOOL => (0..num_bytes).map(|_| (random.next() % 2) as u8).collect(),
        _ => (0..num_bytes).map(|_| (random.next() >> 32) as u8).collect(),
    };
    (name.to_owned(), Tensor::new(dtype, shape, bytes))
}

/// A model of an unknown family with `num_hidden_layers` in its config, in one file.
///
/// The tensors stand in the file in the order that they have here.
pub(crate) fn write(dir: &Path, config: &Value, tensors: &[(String, Tensor)]) {
    write_shards(dir, config, &[tensors]);
}

/// The same in several shards.
pub(crate) fn write_shards(dir: &Path, config: &Value, shards: &[&[(String, Tensor)]]) {
    fs::create_dir_all(dir).unwrap();
    raw::write_json(&dir.join("config.json"), config);
    if let [tensors] = shards {
        write_file(&dir.join(weights::SINGLE), tensors);
        return;
    }
    let mut weight_map = Map::new();
    for (i, tensors) in shards.iter().enumerate() {
        let name = weights::shard_name(i, shards.len());
        write_file(&dir.join(&name), tensors);
        weight_map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": weight_map });
    raw::write_json(&dir.join(weights::INDEX), &index);
}

/// Writes a safetensors file with the tensors in the given order.
fn write_file(path: &Path, tensors: &[(String, Tensor)]) {
    let infos = tensors.iter().map(|(name, it)| (name.as_str(), it.dtype, it.shape.as_slice()));
    let data = tensors.iter().flat_map(|(_, tensor)| tensor.bytes.clone()).collect();
    RawFile { header: header(infos), data }.write(path);
}

/// A header padded to a multiple of eight bytes, as the library writes it.
fn header<'a>(tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>) -> String {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut begin = 0;
    for (name, dtype, shape) in tensors {
        let end = begin + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info =
            json!({ "dtype": dtype.to_string(), "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.to_owned(), info);
        begin = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    header
}

/// A Llama-shaped model of BF16 in holes: it takes no room on disk, be it gigabytes long.
pub(crate) struct Hollow {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    /// The width of all keys.
    pub(crate) kv_size: usize,
    pub(crate) vocab_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) max_shard_bytes: u64,
}

impl Hollow {
    /// All tensors in state-dict order.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inter, kv) = (self.hidden_size, self.intermediate_size, self.kv_size);
        let layer = [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inter, hidden]),
            ("mlp.up_proj", vec![inter, hidden]),
            ("mlp.down_proj", vec![hidden, inter]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        let mut tensors =
            vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for i in 0..self.num_hidden_layers {
            let named = |(name, shape): &(&str, Vec<usize>)| {
                (format!("model.layers.{i}.{name}.weight"), shape.clone())
            };
            tensors.extend(layer.iter().map(named));
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        tensors
    }

    /// Writes it with this config; each shard is sorted by name, as the library does it.
    pub(crate) fn write(&self, dir: &Path, config: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), config).unwrap();
        let shards = greedy(&self.sizes(), self.max_shard_bytes);
        let shapes: std::collections::BTreeMap<_, _> = self.tensors().into_iter().collect();
        let mut weight_map = Map::new();
        for (i, mut names) in shards.clone().into_iter().enumerate() {
            names.sort();
            let shard = weights::shard_name(i, shards.len());
            let infos = names.iter().map(|name| (name.as_str(), Dtype::BF16, &*shapes[name]));
            let header = header(infos);
            let bytes: usize = names.iter().map(|name| num_bytes(&shapes[name])).sum();
            let mut file = File::create(dir.join(&shard)).unwrap();
            file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
            file.write_all(header.as_bytes()).unwrap();
            file.set_len((8 + header.len() + bytes) as u64).unwrap();
            weight_map.extend(names.into_iter().map(|name| (name, shard.clone().into())));
        }
        let index = json!({ "metadata": {}, "weight_map": weight_map });
        raw::write_json(&dir.join(weights::INDEX), &index);
    }

    /// All tensors' lengths in bytes, in state-dict order.
    pub(crate) fn sizes(&self) -> Vec<(String, u64)> {
        let sizes = self.tensors().into_iter();
        sizes.map(|(name, shape)| (name, num_bytes(&shape) as u64)).collect()
    }
}

fn num_bytes(shape: &[usize]) -> usize {
    2 * shape.iter().product::<usize>()
}

/// `split_torch_state_dict_into_shards` of `huggingface_hub`: the names in each file.
pub(crate) fn greedy(tensors: &[(String, u64)], max_shard_bytes: u64) -> Vec<Vec<String>> {
    let (mut shards, mut current, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (name, tensor_bytes) in tensors {
        if *tensor_bytes > max_shard_bytes {
            shards.push(vec![name.clone()]);
            continue;
        }
        if bytes + tensor_bytes > max_shard_bytes {
            shards.push(std::mem::take(&mut current));
            bytes = 0;
        }
        current.push(name.clone());
        bytes += tensor_bytes;
    }
    if !current.is_empty() {
        shards.push(current);
    }
    shards
}
