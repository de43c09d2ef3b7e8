//! Names, configs and metadata, both ways, against what llama.cpp's converter and transformers made
//! of the same models (`scripts/gguf_oracle.py`).

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::path::Path;

use checkpoint::family::{self, Family};
use checkpoint::gguf::architecture::{
    Change, Heads, RopeTensor, Translated, hf_row, is_always_f32,
};
use checkpoint::gguf::header::HeaderTensor;
use checkpoint::gguf::{
    Architecture, Facts, GgmlType, Metadata, RopeFactors, Value, config_from_metadata, to_metadata,
};
use checkpoint::json::Object;
use serde_json::Value as Json;

#[path = "gguf_config/contradictions.rs"]
mod contradictions;
#[path = "gguf_config/refusals.rs"]
mod refusals;

/// The record of a part of the oracle: what is called how, in order.
fn records(part: &str) -> Vec<(String, Json)> {
    let oracle: Json = serde_json::from_str(include_str!("data/gguf_oracle.json")).unwrap();
    oracle[part].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn record(part: &str, name: &str) -> Json {
    records(part).into_iter().find(|(known, _)| known == name).unwrap().1
}

fn object(json: &Json) -> Object {
    Object::parse(&json.to_string()).unwrap()
}

/// Metadata of the recorded keys and types.
fn metadata(record: &Json) -> Metadata {
    let mut metadata = Metadata::new(Path::new("oracle.gguf"));
    for (key, value) in record["metadata"].as_object().unwrap() {
        match value[0].as_str().unwrap() {
            "string" => metadata.set(key, value[1].as_str().unwrap()),
            "uint32" => metadata.set(key, &u32::try_from(value[1].as_u64().unwrap()).unwrap()),
            "float32" => metadata.set(key, &(value[1].as_f64().unwrap() as f32)),
            other => panic!("{key} has the type {other}"),
        }
    }
    metadata
}

fn header_tensor(name: &str, shape: Vec<usize>) -> HeaderTensor {
    HeaderTensor { name: name.to_owned(), ggml_type: GgmlType::F16, shape, range: 0..0 }
}

/// The tensors of a file of `config`'s model, by the table of its family.
fn tensors_of(config: &Object, architecture: &Architecture) -> Vec<HeaderTensor> {
    let family = Family::of(config).unwrap();
    let flag = |key: &str| config.get(key).is_some_and(|value| value == true);
    let is_there = |tensor: &family::Tensor| {
        tensor.required
            || match tensor.name {
                "lm_head.weight" => {
                    !flag("tie_word_embeddings") && !architecture.name.starts_with("gemma")
                }
                name if name.ends_with("_norm.weight") => {
                    ["qwen3", "gemma3"].contains(&architecture.name)
                }
                name if name.starts_with("mlp.") => flag("mlp_bias"),
                name => {
                    flag("attention_bias")
                        || architecture.name == "qwen2" && !name.starts_with("self_attn.o_proj")
                }
            }
    };
    let mut tensors = Vec::new();
    let mut add = |name: &str, tensor: &family::Tensor| {
        let shape = tensor.shape.iter().map(|dim| dim.size(config, family).unwrap() as usize);
        match architecture.gguf_name(name) {
            Some(Translated::Tensor { name, .. }) => {
                tensors.push(header_tensor(&name, shape.collect()));
            }
            other => panic!("{name} is {other:?}"),
        }
    };
    for tensor in family.before.iter().chain(family.after).filter(|it| is_there(it)) {
        add(tensor.name, tensor);
    }
    for layer in 0..config.get("num_hidden_layers").unwrap().as_u64().unwrap() {
        for tensor in family.layer.iter().filter(|it| is_there(it)) {
            add(&format!("{}.{layer}.{}", family.layers, tensor.name), tensor);
        }
    }
    tensors
}

fn rope_factors(numbers: impl Fn(RopeTensor) -> Option<Vec<f32>>) -> RopeFactors {
    RopeFactors {
        frequencies: numbers(RopeTensor::Frequencies),
        long: numbers(RopeTensor::LongFactors),
        short: numbers(RopeTensor::ShortFactors),
    }
}

fn numbers(json: &Json) -> Option<Vec<f32>> {
    json.as_array().map(|items| items.iter().map(|it| it.as_f64().unwrap() as f32).collect())
}

#[test]
fn tensors_are_called_and_ordered_as_the_converter_has_them() {
    for (name, record) in records("tiny") {
        let architecture = Architecture::of_config(&object(&record["config"])).unwrap();
        assert_eq!(architecture.name, record["metadata"]["general.architecture"][1], "{name}");
        let count = |key: &str| record["config"][key].as_u64().unwrap() as usize;
        for (tensor, facts) in record["tensors"].as_object().unwrap() {
            let shape: Vec<usize> = serde_json::from_value(facts[1].clone()).unwrap();
            let is_f32 = facts[0] == "F32";
            assert_eq!(is_always_f32(tensor, shape.len()), is_f32, "{name}: {tensor}");
            if tensor.starts_with("rope_") {
                assert!(matches!(architecture.hf_name(tensor), Some(Translated::Setting(_))));
                continue;
            }
            let Some(Translated::Tensor { name: hf, layer, change }) = architecture.hf_name(tensor)
            else {
                panic!("{name}: {tensor} is not known");
            };
            assert_eq!(hf, facts[2], "{name}: {tensor}");
            let back = Translated::Tensor { name: tensor.clone(), layer, change };
            assert_eq!(architecture.gguf_name(&hf), Some(back), "{name}: {hf}");
            let expected = match change {
                Change::None => Json::from("same"),
                Change::PlusOne => Json::from("plus one"),
                Change::Interleaved(heads) => {
                    let head_dim = shape[0] / count(heads.key());
                    (0..shape[0]).map(|row| hf_row(row, head_dim)).collect()
                }
            };
            assert_eq!(facts[3], expected, "{name}: {tensor}");
            let is_query = tensor.contains("attn_q.") && architecture.name == "llama";
            assert_eq!(change == Change::Interleaved(Heads::Queries), is_query, "{name}: {tensor}");
        }
    }
}

#[test]
fn families_have_the_state_dict_order_of_transformers() {
    for (name, record) in records("tiny") {
        let config = object(&record["config"]);
        let family = Family::of(&config).unwrap();
        let stored: Vec<String> = serde_json::from_value(record["state_dict"].clone()).unwrap();
        let has = |name: &String| stored.contains(name);
        let mut expected: Vec<String> = family.before.iter().map(|it| it.name.to_owned()).collect();
        for layer in 0..record["config"]["num_hidden_layers"].as_u64().unwrap() {
            let layer = format!("{}.{layer}", family.layers);
            expected.extend(family.layer.iter().map(|it| format!("{layer}.{}", it.name)));
        }
        expected.extend(family.after.iter().map(|it| it.name.to_owned()));
        expected.retain(has);
        assert_eq!(expected, stored, "{name}");
    }
}

/// The keys and values as JSON, numbers in single precision.
fn shown(metadata: &Metadata, key: &str) -> Json {
    match metadata.get(key).unwrap() {
        Value::Unsigned(number) => number.into(),
        Value::F32(number) => number.into(),
        Value::Bool(value) => value.into(),
        Value::String(text) => String::from_utf8_lossy(text).into(),
        other => panic!("{key} is {other:?}"),
    }
}

#[test]
fn metadata_are_those_of_the_converter() {
    for (name, record) in records("tiny").into_iter().chain(records("published")) {
        let config = object(&record["config"]);
        let architecture = Architecture::of_config(&config).unwrap();
        let mut written = Metadata::new(Path::new("out.gguf"));
        let weights = match record["metadata"]["general.file_type"][1].as_u64() {
            Some(0) => GgmlType::F32,
            _ => GgmlType::F16,
        };
        let made = to_metadata(&config, architecture, "oracle", weights, &mut written)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = metadata(&record);
        // Mistral's window is carried, though llama.cpp does not apply it.
        let own = ["general.name", "general.type", "llama.attention.sliding_window"];
        let own = |key: &&str| !own.contains(key) && *key != "general.quantization_version";
        let mut keys: Vec<&str> = written.keys().filter(own).collect();
        keys.sort_unstable();
        let mut expected_keys: Vec<&str> = expected.keys().filter(own).collect();
        expected_keys.sort_unstable();
        assert_eq!(keys, expected_keys, "{name}");
        for key in keys {
            let (found, expected) = (shown(&written, key), shown(&expected, key));
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-7 * b.abs();
            let same = match (found.as_f64(), expected.as_f64()) {
                (Some(a), Some(b)) if found.is_f64() && expected.is_f64() => near(a, b),
                _ => found == expected,
            };
            assert!(same, "{name}: {key} is {found}, not {expected}");
        }
        for tensor in [RopeTensor::Frequencies, RopeTensor::LongFactors, RopeTensor::ShortFactors] {
            let recorded = &record["tensors"][tensor.name()][2];
            let expected = numbers(recorded).or_else(|| numbers(&record["extra"][tensor.name()]));
            let found =
                made.tensors.iter().find(|(it, _)| *it == tensor).map(|(_, numbers)| numbers);
            assert_eq!(found.map(Vec::len), expected.as_ref().map(Vec::len), "{name}: {tensor:?}");
            for (a, b) in found.into_iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() <= 1e-5 * b, "{name}: {tensor:?} has {a} for {b}");
            }
        }
    }
}

/// Checks that `config`, made from metadata, says what the config `expected` says.
fn same_model(name: &str, config: &Object, expected: &Json) {
    let family = expected["model_type"].as_str().unwrap();
    let config: Json = serde_json::from_str(&config.to_string()).unwrap();
    let plain = [
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "original_max_position_embeddings",
        "query_pre_attn_scalar",
        "rms_norm_eps",
        "vocab_size",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    ];
    for key in plain {
        assert_eq!(config[key], expected[key], "{name}: {key}");
    }
    let tied = expected["tie_word_embeddings"].as_bool().unwrap_or(family.starts_with("gemma"));
    assert_eq!(config["tie_word_embeddings"], tied, "{name}");
    let heads = expected["num_attention_heads"].as_u64().unwrap();
    let derived = expected["hidden_size"].as_u64().unwrap() / heads;
    let head_dim = |it: &Json| it["head_dim"].as_u64().unwrap_or(derived);
    assert_eq!(head_dim(&config), head_dim(expected), "{name}");
    if family != "qwen2" && family != "qwen3" {
        assert_eq!(config["sliding_window"], expected["sliding_window"], "{name}");
    }
    if let Json::Array(kinds) = &expected["layer_types"]
        && family.starts_with("gemma")
    {
        assert_eq!(config["layer_types"].as_array(), Some(kinds), "{name}");
    }
    for key in ["attention_bias", "mlp_bias"] {
        let flag = |it: &Json| it[key].as_bool().unwrap_or(false);
        assert_eq!(flag(&config), flag(expected), "{name}: {key}");
    }
    // Both spellings of RoPE.
    let rope = |it: &Json| -> (Option<f64>, Option<f64>, Json) {
        let flat = it["rope_parameters"].as_object().is_some();
        let full = &it["rope_parameters"]["full_attention"];
        let parameters = if full.is_object() {
            full
        } else if flat {
            &it["rope_parameters"]
        } else {
            &it["rope_scaling"]
        };
        let local = it["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64();
        let theta = parameters["rope_theta"].as_f64().or(it["rope_theta"].as_f64());
        let mut scaling = parameters.clone();
        if let Some(entries) = scaling.as_object_mut() {
            for key in ["rope_theta", "partial_rotary_factor"] {
                entries.remove(key);
            }
            if let Some(kind) = entries.remove("type") {
                entries.insert("rope_type".to_owned(), kind);
            }
            let kind = entries["rope_type"].as_str().unwrap().to_owned();
            if kind == "longrope" {
                entries.remove("original_max_position_embeddings");
            }
            if kind == "default" {
                scaling = Json::Null;
            }
        }
        (theta, local.or(it["rope_local_base_freq"].as_f64()), scaling)
    };
    assert_eq!(rope(&config), rope(expected), "{name}");
    let partial = |it: &Json| it["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    assert!((partial(&config) - partial(expected)).abs() < 1e-12, "{name}");
}

#[test]
fn configs_say_what_they_said_before_the_converter() {
    for (name, record) in records("tiny").into_iter().chain(records("published")) {
        let config = object(&record["config"]);
        let architecture = Architecture::of_config(&config).unwrap();
        let mut metadata = metadata(&record);
        // Which the converter drops.
        if let (Some("mistral"), Some(window)) =
            (record["config"]["model_type"].as_str(), record["config"]["sliding_window"].as_u64())
        {
            metadata.set("llama.attention.sliding_window", &u32::try_from(window).unwrap());
        }
        assert_eq!(Architecture::of_metadata(&metadata).unwrap().name, architecture.name);
        let tensors = tensors_of(&config, architecture);
        let rope = rope_factors(|tensor| {
            numbers(&record["tensors"][tensor.name()][2])
                .or_else(|| numbers(&record["extra"][tensor.name()]))
        });
        let facts = Facts { tensors: &tensors, rope };
        let described =
            config_from_metadata(&metadata, architecture, &facts).unwrap_or_else(|error| {
                panic!("{name}: {}", std::error::Error::source(&error).unwrap())
            });
        assert!(described.notes.is_empty(), "{name}: {:?}", described.notes);
        same_model(&name, &described.config, &record["config"]);

        // And back again, from what was written here.
        let mut again = Metadata::new(Path::new("again.gguf"));
        to_metadata(&described.config, architecture, "again", GgmlType::F16, &mut again).unwrap();
        for key in metadata.keys().filter(|key| !key.starts_with("general.")) {
            assert_eq!(shown(&again, key), shown(&metadata, key), "{name}: {key}");
        }
    }
}
