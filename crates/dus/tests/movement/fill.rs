//! A base of a few hundred megabytes that are random, so that no file system can squeeze them.

use std::path::Path;

use serde_json::json;
use testkit::tensor::Random;
use testkit::{Dtype, Tensor, Tensors, raw, weights};

/// The layers of the base.
pub(crate) const NUM_LAYERS: usize = 8;

/// Writes the base to `dir`, in three shards, and returns its tensors.
///
/// Every tensor is a multiple of 4,096 bytes, as Mistral-7B's are; 201 MB in all, 24 MiB a layer.
pub(crate) fn write_base(dir: &Path) -> Tensors {
    std::fs::create_dir(dir).unwrap();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": NUM_LAYERS });
    raw::write_json(&dir.join("config.json"), &config);
    let mut tensors = Vec::new();
    let mut push = |name: String, kib: usize| {
        let mut random = Random::new(&name);
        let bytes: Vec<u8> = (0..kib << 7).flat_map(|_| random.next().to_le_bytes()).collect();
        tensors.push((name, Tensor::new(Dtype::F32, &[kib << 8], bytes)));
    };
    push("wte.weight".to_owned(), 512);
    for layer in 0..NUM_LAYERS {
        push(format!("h.{layer}.attn.weight"), 8 << 10);
        push(format!("h.{layer}.mlp.weight"), (16 << 10) - 4);
        push(format!("h.{layer}.norm.weight"), 4);
    }
    push("ln_f.weight".to_owned(), 4);
    weights::write(dir, &tensors, Some(3));
    tensors.into_iter().collect()
}
