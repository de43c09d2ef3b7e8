//! Tensors written to a folder's files, and read back, by the safetensors crate.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::raw;
use crate::tensor::{Tensor, Tensors};

/// The index of a model in shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The weights of a model that is not in shards.
pub const SINGLE: &str = "model.safetensors";

/// The name of shard number `shard`, from 0, of `num_shards`.
#[must_use]
pub fn shard_name(shard: usize, num_shards: usize) -> String {
    format!("model-{:05}-of-{num_shards:05}.safetensors", shard + 1)
}

/// Writes `tensors` as `model.safetensors`, or as shards of about as many tensors each and an index.
pub fn write(dir: &Path, tensors: &[(String, Tensor)], num_shards: Option<usize>) {
    let Some(num_shards) = num_shards else {
        write_file(&dir.join(SINGLE), tensors);
        return;
    };
    let mut weight_map = Map::new();
    for shard in 0..num_shards {
        let name = shard_name(shard, num_shards);
        let begin = tensors.len() * shard / num_shards;
        let end = tensors.len() * (shard + 1) / num_shards;
        write_file(&dir.join(&name), &tensors[begin..end]);
        for (tensor, _) in &tensors[begin..end] {
            weight_map.insert(tensor.clone(), name.clone().into());
        }
    }
    let total_size: usize = tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    raw::write_json(&dir.join(INDEX), &index);
}

/// Writes one safetensors file; the crate orders the tensors by dtype, then by name.
pub fn write_file(path: &Path, tensors: &[(String, Tensor)]) {
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let tensors = tensors.iter().map(|(name, tensor)| (name, tensor));
    let bytes = safetensors::serialize(tensors, Some(metadata)).expect("the tensors are whole");
    fs::write(path, bytes).expect("a weight file can be written");
}

/// Reads all tensors of the model in `dir`, as transformers does: a single file first, then an index.
///
/// Each shard must hold exactly the tensors that the index gives to it.
#[must_use]
pub fn read(dir: &Path) -> Tensors {
    if dir.join(SINGLE).exists() {
        return read_file(&dir.join(SINGLE));
    }
    let index = raw::read_json(&dir.join(INDEX));
    let weight_map = index["weight_map"].as_object().expect("an index has a weight map");
    let shard_of = |name: &str| weight_map.get(name).and_then(Value::as_str);
    let mut shards: Vec<&str> = weight_map.keys().filter_map(|name| shard_of(name)).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut tensors = Tensors::new();
    for shard in shards {
        for (name, tensor) in read_file(&dir.join(shard)) {
            assert_eq!(shard_of(&name), Some(shard), "{name} in {shard}, by the index");
            tensors.insert(name, tensor);
        }
    }
    assert_eq!(tensors.len(), weight_map.len(), "tensors in shards and in the index");
    tensors
}

/// Reads one safetensors file.
#[must_use]
pub fn read_file(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensor = |(name, view): (String, safetensors::tensor::TensorView)| {
        let tensor = Tensor::new(view.dtype(), view.shape(), view.data());
        (name, tensor)
    };
    file.tensors().into_iter().map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TinyModel;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for num_shards in [None, Some(1), Some(3)] {
            let model = TinyModel { num_shards, ..TinyModel::default() };
            let dir = dir.path().join(format!("{num_shards:?}"));
            model.write(&dir);
            assert_eq!(read(&dir), model.tensors_by_name());
        }
    }
}
