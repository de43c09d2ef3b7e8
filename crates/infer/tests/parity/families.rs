//! Tiny models of every family and rotary scaling beside transformers.
//!
//! Configs, ids, logits and frequencies were recorded by `scripts/decoder_references.py`, which makes
//! the weights from the tensors' names as `testkit` does.

use std::path::Path;

use checkpoint::json::Object;
use infer::device::Place;
use infer::load::Arithmetic;
use infer::open::{Opened, Spec, Wanted};
use infer::progress::Watch;
use infer::{DecoderConfig, Model};
use serde_json::{Value, json};
use testkit::gguf::{self, Kind, RawGguf, RawTensor};
use testkit::{Dtype, Tensor, raw, weights};

use crate::references::{all_logits, ids, load, row};

const RECORDED: &str = include_str!("../data/families.json");

#[test]
fn logits_are_those_of_transformers() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let models = recorded["models"].as_object().unwrap();
    assert!(models.len() >= 13);
    for (name, model) in models {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), model);
        check_logits(name, model, &load(dir.path()));
    }
}

#[track_caller]
fn check_logits(name: &str, recorded: &Value, model: &Model) {
    let logits = all_logits(model, &ids(&recorded["ids"]));
    for (position, expected) in recorded["logits"].as_object().unwrap() {
        let found = row(&logits, position.parse().unwrap());
        let expected = numbers(expected);
        assert_eq!(found.len(), expected.len());
        for (id, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (f64::from(found) - expected).abs();
            assert!(difference < 1e-4, "{name}: logit {id} at {position}: {found}, {expected}");
        }
    }
}

/// The same models as llama.cpp's converter would write them. What has no place in such a file is left
/// out: windows, `mscale`, biases of Qwen3, and frequencies that are no published curve.
#[test]
fn so_are_those_of_gguf_files() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    for name in [
        "llama",
        "llama-biased-tied",
        "llama-wide-heads",
        "llama-linear",
        "llama-yarn",
        "mistral-no-window",
        "qwen2",
        "qwen3",
    ] {
        let model = &recorded["models"][name];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        write_gguf(&file, model);
        check_logits(name, model, &load_gguf(&file));
    }
}

/// Llama 3.1's frequencies, of which a file has the factors and a config the four numbers.
#[test]
fn llama3_frequencies_of_a_gguf_file_are_the_folders() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let mut model = recorded["models"]["llama-llama3"].clone();
    let rope = &mut model["config"]["rope_parameters"];
    rope["rope_theta"] = 1e6.into();
    rope["original_max_position_embeddings"] = 512.into();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    write_gguf(&file, &model);
    write(dir.path(), &model);
    let tokens = ids(&model["ids"]);
    let (found, expected) =
        (all_logits(&load_gguf(&file), &tokens), all_logits(&load(dir.path()), &tokens));
    for i in 0..tokens.len() {
        let pairs = row(&found, i).into_iter().zip(row(&expected, i));
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-5, "at {i}: {difference}");
    }
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    for (name, case) in recorded["frequencies"].as_object().unwrap() {
        let head_dim = case["config"]["head_dim"].as_u64().unwrap() as usize;
        let config = read_config(&case["config"]);
        let found = config.rope.inverse_frequencies(head_dim);
        let expected = numbers(&case["inverse_frequencies"]);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let ratio = f64::from(found) / expected - 1.0;
            assert!(ratio.abs() < 3e-7, "{name}: frequency {i}: {found}, {expected}");
        }
        let factor = case["attention_factor"].as_f64().unwrap();
        assert!((f64::from(config.rope.attention_factor()) - factor).abs() < 1e-6, "{name}");
        let angles = config.rope.angles(&found, std::iter::once(4095));
        for (key, found) in [("cos_at_4095", angles.cos), ("sin_at_4095", angles.sin)] {
            for (i, (&found, expected)) in found.iter().zip(numbers(&case[key])).enumerate() {
                // A frequency's last bit, 4,095 times.
                let difference = (f64::from(found) - expected).abs();
                assert!(difference < 5e-4, "{name}: {key} {i}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn old_spellings_of_rope_mean_what_new_ones_mean() {
    let yarn =
        |kind: &str| json!({ kind: "yarn", "factor": 4.0, "original_max_position_embeddings": 16 });
    let mut inside = yarn("rope_type");
    inside["rope_theta"] = 5e5.into();
    for (old, new) in [
        (json!({ "rope_theta": 5e5 }), json!({ "rope_parameters": { "rope_theta": 5e5 } })),
        (
            json!({ "rope_theta": 5e5, "rope_scaling": null }),
            json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "default" } }),
        ),
        (
            json!({ "rope_theta": 5e5, "rope_scaling": yarn("type") }),
            json!({ "rope_parameters": inside }),
        ),
        // What was left over beside the new keys.
        (
            json!({ "rope_theta": 1e4, "rope_parameters": { "rope_theta": 5e5 } }),
            json!({ "rope_theta": 5e5 }),
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "rope_type": "default", "factor": 4.0 } }),
            json!({}),
        ),
    ] {
        assert_eq!(read_config(&old).rope, read_config(&new).rope, "{old} and {new}");
    }
}

#[test]
fn a_window_is_where_the_config_puts_it() {
    #[track_caller]
    fn check(keys: &Value, expected: [Option<usize>; 4]) {
        assert_eq!(read_config(keys).sliding_windows, expected, "{keys}");
    }
    let (none, w) = (None, Some(5));
    check(&json!({ "model_type": "llama", "sliding_window": 5 }), [none; 4]);
    check(&json!({ "model_type": "mistral", "sliding_window": 5 }), [w; 4]);
    check(&json!({ "model_type": "mistral", "sliding_window": null }), [none; 4]);
    check(&json!({ "model_type": "mistral" }), [Some(4096); 4]);
    for family in ["qwen2", "qwen3"] {
        let keys = |is_on: bool, first: usize| {
            json!({ "model_type": family, "sliding_window": 5, "use_sliding_window": is_on,
                "max_window_layers": first })
        };
        check(&json!({ "model_type": family, "sliding_window": 5 }), [none; 4]);
        check(&keys(false, 2), [none; 4]);
        check(&keys(true, 2), [none, none, w, w]);
        check(&keys(true, 0), [w; 4]);
        // A model deepened at `max_window_layers = n` has no window above it.
        check(&keys(true, 4), [none; 4]);
        let mut listed = keys(true, 4);
        let (full, sliding) = ("full_attention", "sliding_attention");
        listed["layer_types"] = json!([sliding, full, full, sliding]);
        check(&listed, [w, none, none, w]);
        listed["use_sliding_window"] = false.into();
        check(&listed, [none; 4]);
    }
}

#[test]
fn what_a_config_leaves_out_is_what_transformers_has_for_it() {
    let config = |keys: Value| read_config(&keys);
    let heads = |family: &str, heads: Value| {
        let config = config(json!({ "model_type": family, "num_attention_heads": 32,
            "hidden_size": 256, "num_key_value_heads": heads }));
        config.num_key_value_heads
    };
    assert_eq!(heads("mistral", json!(null)), 32);
    assert_eq!(heads("mistral", json!(4)), 4);
    let mut left_out = json!({
        "model_type": "mistral",
        "vocab_size": 40,
        "hidden_size": 256,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
    });
    let read = |config: &Value| {
        DecoderConfig::read(&Object::parse(&config.to_string()).unwrap(), Path::new("c")).unwrap()
    };
    let mistral = read(&left_out);
    assert_eq!((mistral.num_key_value_heads, mistral.head_dim), (8, 8));
    assert_eq!((mistral.max_position_embeddings, mistral.rms_norm_eps), (131_072, 1e-6));
    left_out["model_type"] = "qwen3".into();
    let qwen3 = read(&left_out);
    assert_eq!((qwen3.num_key_value_heads, qwen3.head_dim), (32, 128));
    left_out["model_type"] = "llama".into();
    let llama = read(&left_out);
    assert_eq!((llama.num_key_value_heads, llama.max_position_embeddings), (32, 2048));
}

/// Reads a config of which only `keys` matter.
fn read_config(keys: &Value) -> DecoderConfig {
    let mut config = json!({
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let object = Object::parse(&config.to_string()).unwrap();
    DecoderConfig::read(&object, Path::new("config.json")).unwrap()
}

fn write(dir: &Path, model: &Value) {
    raw::write_json(&dir.join("config.json"), &model["config"]);
    let tensor = |(name, shape): (&String, &Value)| {
        let shape: Vec<usize> = ids(shape).into_iter().map(|dim| dim as usize).collect();
        let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        (name.clone(), Tensor::random(name, Dtype::F32, &shape, mean))
    };
    let tensors: Vec<_> = model["tensors"].as_object().unwrap().iter().map(tensor).collect();
    weights::write(dir, &tensors, None);
}

/// Writes the model as a GGUF file, by the names and keys of llama.cpp's converter.
fn write_gguf(path: &Path, model: &Value) {
    let config = &model["config"];
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let (hidden, heads) = (number("hidden_size"), number("num_attention_heads"));
    let head_dim = config["head_dim"].as_u64().map_or(hidden / heads, |it| it as u32);
    let architecture = match config["model_type"].as_str().unwrap() {
        "mistral" => "llama",
        other => other,
    };
    let rope = &config["rope_parameters"];
    let single = |value: &Value| gguf::Value::F32(value.as_f64().unwrap() as f32);
    let mut keys = vec![
        ("block_count", gguf::Value::U32(number("num_hidden_layers"))),
        ("context_length", gguf::Value::U32(number("max_position_embeddings"))),
        ("embedding_length", gguf::Value::U32(hidden)),
        ("feed_forward_length", gguf::Value::U32(number("intermediate_size"))),
        ("attention.head_count", gguf::Value::U32(heads)),
        ("attention.head_count_kv", gguf::Value::U32(number("num_key_value_heads"))),
        ("attention.layer_norm_rms_epsilon", single(&config["rms_norm_eps"])),
        ("rope.freq_base", single(&rope["rope_theta"])),
    ];
    if architecture != "qwen2" {
        keys.push(("attention.key_length", gguf::Value::U32(head_dim)));
        keys.push(("attention.value_length", gguf::Value::U32(head_dim)));
    }
    let mut tensors = Vec::new();
    match rope["rope_type"].as_str().unwrap() {
        "default" => {}
        "llama3" => {
            let factors = llama3_factors(rope, head_dim);
            let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            tensors.push(f32_tensor("rope_freqs.weight", &[factors.len()], bytes));
        }
        kind => {
            keys.push(("rope.scaling.type", gguf::Value::text(kind)));
            keys.push(("rope.scaling.factor", single(&rope["factor"])));
            if let Some(original) = rope["original_max_position_embeddings"].as_u64() {
                let original = gguf::Value::U32(original as u32);
                keys.push(("rope.scaling.original_context_length", original));
            }
        }
    }
    for (name, shape) in model["tensors"].as_object().unwrap() {
        let shape: Vec<usize> = ids(shape).into_iter().map(|dim| dim as usize).collect();
        let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let mut bytes = Tensor::random(name, Dtype::F32, &shape, mean).bytes;
        let heads = match name.rsplit('.').nth(1).unwrap() {
            "q_proj" => heads,
            "k_proj" => number("num_key_value_heads"),
            _ => 0,
        };
        if architecture == "llama" && heads > 0 {
            bytes = pair_by_pair(&bytes, heads as usize, shape[0]);
        }
        tensors.push(f32_tensor(&gguf_name(name), &shape, bytes));
    }
    let keys = keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value));
    let mut all = vec![("general.architecture".to_owned(), gguf::Value::text(architecture))];
    all.extend(keys);
    all.push(("tokenizer.ggml.model".to_owned(), gguf::Value::text("no_vocab")));
    RawGguf::new(all, tensors).write(path);
}

fn f32_tensor(name: &str, shape: &[usize], bytes: Vec<u8>) -> RawTensor {
    RawTensor { bytes, ..RawTensor::random(name, Kind::of("F32"), shape, "") }
}

/// The rows of each head, whose first half and second half RoPE turns together, as pairs that lie side
/// by side.
fn pair_by_pair(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let (row_bytes, head_dim) = (bytes.len() / rows, rows / heads);
    let row = |row: usize| &bytes[row * row_bytes..(row + 1) * row_bytes];
    let of_head =
        |head: usize| (0..head_dim).map(move |i| head * head_dim + i % 2 * (head_dim / 2) + i / 2);
    (0..heads).flat_map(of_head).flat_map(row).copied().collect()
}

fn gguf_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    parts.iter().fold(name.to_owned(), |name, (hf, gguf)| name.replace(hf, gguf))
}

/// What llama.cpp's converter makes of Llama 3.1's numbers.
fn llama3_factors(rope: &Value, head_dim: u32) -> Vec<f32> {
    let number = |key: &str| rope[key].as_f64().unwrap();
    let original = number("original_max_position_embeddings");
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let factor = |i: u32| {
        let exponent = f64::from(2 * i) / f64::from(head_dim);
        let wave_length = std::f64::consts::TAU * number("rope_theta").powf(exponent);
        if wave_length < original / high {
            1.0
        } else if wave_length > original / low {
            number("factor")
        } else {
            let smooth = (original / wave_length - low) / (high - low);
            1.0 / ((1.0 - smooth) / number("factor") + smooth)
        }
    };
    (0..head_dim / 2).map(|i| factor(i) as f32).collect()
}

fn load_gguf(path: &Path) -> Model {
    let (spec, watch) = (Spec::new(path.to_str().unwrap()), Watch::nobody());
    let opened = Opened::find(&spec, Wanted::Weights, &watch).unwrap();
    opened.load(Arithmetic::F32, Place::Cpu, &watch).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}
