//! Which file each tensor goes to: Hugging Face's rule, SOLAR's numbers, and what can be shared.

use std::collections::{BTreeMap, BTreeSet};

use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Source};
use serde_json::Value;
use testkit::{Family, TinyModel, published};

use crate::bases::{Hollow, greedy};
use crate::form;
use crate::workshop::{LAYERS, Workshop};

const MISTRAL: Hollow = Hollow {
    hidden_size: 4096,
    intermediate_size: 14336,
    kv_size: 1024,
    vocab_size: 32000,
    num_hidden_layers: 32,
    max_shard_bytes: 10_000_000_000,
};

/// The tensors of layers `layers` of `model`, and of all else, in state-dict order with their lengths.
fn state_dict(tensors: &[(String, u64)], layers: &[usize], prefix: &str) -> Vec<(String, u64)> {
    let in_layer = |name: &str| name.starts_with(&format!("{prefix}."));
    let (first, last) = (
        tensors.iter().position(|(name, _)| in_layer(name)).unwrap(),
        tensors.iter().rposition(|(name, _)| in_layer(name)).unwrap(),
    );
    let mut dict = tensors[..first].to_vec();
    for (j, layer) in layers.iter().enumerate() {
        let begin = format!("{prefix}.{layer}.");
        for (name, bytes) in tensors {
            if let Some(rest) = name.strip_prefix(&begin) {
                dict.push((format!("{prefix}.{j}.{rest}"), *bytes));
            }
        }
    }
    dict.extend_from_slice(&tensors[last + 1..]);
    dict
}

#[track_caller]
fn check_greedy(model: &TinyModel, max_shard_size: &str, max_shard_bytes: u64) {
    let mut tensors: Vec<(String, u64)> = model
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.bytes.len() as u64))
        .collect();
    if model.family == Family::Gpt2 {
        // Where there is no table it is the order of the file, which is sorted by name.
        tensors.sort();
    }
    let dict = state_dict(&tensors, &LAYERS, model.family.prefix());
    let expected: Vec<BTreeSet<String>> = greedy(&dict, max_shard_bytes)
        .into_iter()
        .map(|names| names.into_iter().collect())
        .collect();
    let workshop = Workshop::with(model);
    workshop.build_base(&["--max-shard-size", max_shard_size]);
    let shards = form::check(&workshop.path("out"), &workshop.built(), max_shard_bytes);
    let found: Vec<BTreeSet<String>> = shards
        .into_values()
        .map(|tensors| tensors.into_iter().map(|(name, _)| name).collect())
        .collect();
    assert_eq!(found, expected, "{max_shard_size}");
}

#[test]
fn are_split_by_hugging_faces_rule() {
    for family in [Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Gpt2] {
        for (text, bytes) in [
            ("1", 1),
            ("767", 767),
            ("768", 768),
            ("2KB", 2_000),
            ("2 KiB", 2_048),
            ("7.5KB", 7_500),
            ("20kb", 20_000),
            ("1GB", 1_000_000_000),
        ] {
            check_greedy(&TinyModel::of(family), text, bytes);
        }
    }
    check_greedy(&TinyModel { tie_word_embeddings: true, ..TinyModel::default() }, "5KB", 5_000);
}

/// What `dus plan --json` prints, be there room on the disk for a build or not.
#[track_caller]
fn plan(workshop: &Workshop, flags: &[&str]) -> Value {
    let run = workshop.dus(&[&["plan", "base", "--json", "--layers", "dus(8)"], flags].concat());
    let plan: Value = serde_json::from_str(&run.stdout).unwrap();
    let obstacles: Vec<&str> =
        plan["obstacles"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(obstacles.iter().all(|text| text.contains(" free")), "{obstacles:?}");
    assert_eq!(run.code, if obstacles.is_empty() { 0 } else { 2 }, "{}", run.stderr);
    plan
}

fn tensor_bytes(plan: &Value) -> Vec<u64> {
    let shards = plan["shards"].as_array().unwrap();
    shards.iter().map(|shard| shard["tensor_bytes"].as_u64().unwrap()).collect()
}

/// Mistral-7B as it was published, but for the numbers in its tensors.
fn mistral() -> Workshop {
    assert_eq!(published::MISTRAL_7B_CONFIG.len(), 571, "the official file's length");
    let workshop = Workshop::new();
    MISTRAL.write(&workshop.path("base"), published::MISTRAL_7B_CONFIG);
    let bytes: Vec<u64> = greedy(&MISTRAL.sizes(), MISTRAL.max_shard_bytes)
        .iter()
        .map(|names| {
            let sizes: BTreeMap<_, _> = MISTRAL.sizes().into_iter().collect();
            names.iter().map(|name| sizes[name]).sum()
        })
        .collect();
    assert_eq!(bytes, [9_942_958_080, 4_540_506_112], "the official shards' lengths");
    assert_eq!(MISTRAL.sizes().len(), 291);
    workshop
}

#[test]
fn of_solar_are_the_official_ones() {
    let workshop = mistral();
    let as_published = ["--dtype", "float16", "--architecture", "llama"];
    for flags in [&[][..], &["--max-shard-size", "5GB"], &as_published] {
        let plan = plan(&workshop, flags);
        assert_eq!(
            tensor_bytes(&plan),
            [4_943_151_104, 4_999_806_976, 4_915_904_512, 4_915_904_512, 1_688_281_088]
        );
        assert_eq!(plan["shards"][2]["name"], "model-00003-of-00005.safetensors");
        assert_eq!(plan["num_tensors"], 435);
        assert_eq!(plan["bytes"], 21_463_048_192_u64);
        assert_eq!(plan["num_parameters"], 10_731_524_096_u64);
        assert_eq!(plan["num_hidden_layers"], 48);
        assert_eq!(plan["discrepancy"], 16);
        for shard in plan["shards"].as_array().unwrap() {
            let header = shard["bytes"].as_u64().unwrap() - shard["tensor_bytes"].as_u64().unwrap();
            assert!(header % 8 == 0 && header < 50_000, "{shard}");
        }
    }
}

/// Which tensors stand at SOLAR's shard borders, from its published index.
#[test]
fn of_solar_have_the_official_borders() {
    let workshop = mistral();
    let draft = Draft {
        base: Some(Source { spec: "base".to_owned(), relative_to: workshop.path("") }),
        layers: Some("dus(8)".to_owned()),
        architecture: Some("llama".to_owned()),
        dtype: Some("float16".to_owned()),
        ..Draft::default()
    };
    let blueprint = Blueprint::new(draft.finish().unwrap(), LayoutKind::Size, None).unwrap();
    let names = |shard: usize| -> BTreeSet<&str> {
        let tensors = blueprint.layout.shards[shard].tensors.iter();
        tensors.map(|placed| blueprint.splice.tensors[placed.tensor].name.as_str()).collect()
    };
    let counts: Vec<usize> = (0..5).map(|shard| names(shard).len()).collect();
    assert_eq!(counts, [97, 106, 100, 100, 32]);
    for (shard, name) in [
        (0, "model.embed_tokens.weight"),
        (0, "model.layers.10.mlp.up_proj.weight"),
        (1, "model.layers.10.mlp.down_proj.weight"),
        (1, "model.layers.22.self_attn.o_proj.weight"),
        (2, "model.layers.22.mlp.gate_proj.weight"),
        (2, "model.layers.33.mlp.gate_proj.weight"),
        (3, "model.layers.33.mlp.up_proj.weight"),
        (3, "model.layers.44.mlp.up_proj.weight"),
        (4, "model.layers.44.mlp.down_proj.weight"),
        (4, "model.norm.weight"),
        (4, "lm_head.weight"),
    ] {
        assert!(names(shard).contains(name), "{name} is not in shard {shard}");
    }

    // SOLAR's config as it was published, but for its name, `use_cache` and the keys of later versions.
    let config = blueprint.config.as_ref().unwrap().config.to_string();
    let config: Value = serde_json::from_str(&config).unwrap();
    for (key, expected) in [
        ("architectures", serde_json::json!(["LlamaForCausalLM"])),
        ("attention_bias", false.into()),
        ("hidden_size", 4096.into()),
        ("intermediate_size", 14336.into()),
        ("max_position_embeddings", 4096.into()),
        ("model_type", "llama".into()),
        ("num_attention_heads", 32.into()),
        ("num_hidden_layers", 48.into()),
        ("num_key_value_heads", 8.into()),
        ("pretraining_tp", 1.into()),
        ("rms_norm_eps", 1e-5.into()),
        ("rope_scaling", Value::Null),
        ("rope_theta", 10000.0.into()),
        ("tie_word_embeddings", false.into()),
        ("torch_dtype", "float16".into()),
        ("vocab_size", 32000.into()),
    ] {
        assert_eq!(config.get(key), Some(&expected), "{key}");
    }
    assert_eq!(config.get("sliding_window"), None);
}

/// With 16-bit norms of 6,144 or 10,240 bytes, no multiples of 4,096, nearly all can be shared too.
#[test]
fn by_source_can_share_nearly_all() {
    let mini = Hollow {
        hidden_size: 3072,
        intermediate_size: 8192,
        kv_size: 3072,
        vocab_size: 32064,
        num_hidden_layers: 32,
        max_shard_bytes: 5_000_000_000,
    };
    let large = Hollow {
        hidden_size: 5120,
        intermediate_size: 13824,
        kv_size: 5120,
        vocab_size: 32000,
        num_hidden_layers: 40,
        max_shard_bytes: 10_000_000_000,
    };
    for (model, heads) in [(MISTRAL, 32), (mini, 32), (large, 40)] {
        let workshop = Workshop::new();
        let config = serde_json::json!({
            "model_type": "llama",
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "num_attention_heads": heads,
            "num_key_value_heads": model.kv_size * heads / model.hidden_size,
            "num_hidden_layers": model.num_hidden_layers,
            "vocab_size": model.vocab_size,
        });
        model.write(&workshop.path("base"), &config.to_string());
        for layout in ["source", "size"] {
            let plan = plan(&workshop, &["--shard-layout", layout]);
            let (all, shareable) = (&plan["bytes"], &plan["shareable_bytes"]["source"]);
            let part = shareable.as_f64().unwrap() / all.as_f64().unwrap();
            assert!((0.99..=1.0).contains(&part), "{part} of hidden size {}", model.hidden_size);
            assert!(tensor_bytes(&plan).iter().all(|bytes| *bytes <= 5_000_000_000), "{plan}");
            assert_eq!(tensor_bytes(&plan).iter().sum::<u64>(), all.as_u64().unwrap());
        }
    }
}
