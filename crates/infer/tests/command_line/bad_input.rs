//! What bad input gets: an error that names it, and exit code 2.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::gguf::{self, TinyGguf};
use testkit::{ConfigForm, Dtype, Family, Tensor, TinyModel, raw, weights};

use crate::infer::{infer, tiny};

/// Tensors with their names.
type Named = Vec<(String, Tensor)>;

/// A model of four layers, written to a folder of its own.
fn written(model: &TinyModel) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    dir
}

fn with(family: Family, key: &'static str, value: Value) -> TempDir {
    written(&TinyModel { extra_config: vec![(key, value)], ..TinyModel::of(family) })
}

#[track_caller]
fn refused(dir: &Path, expected: &[&str]) {
    infer(&["logits", dir.to_str().unwrap(), "--ids", "3,4"]).refused(expected);
}

#[test]
fn an_unknown_architecture() {
    let hint = "hint: the decoder runs LlamaForCausalLM, MistralForCausalLM";
    refused(written(&TinyModel::of(Family::Gpt2)).path(), &["architecture gpt2", hint]);
    let dir = with(Family::Llama, "model_type", "granite".into());
    refused(dir.path(), &["config.json is of the architecture granite, which is not run", hint]);
    let dir = with(Family::Llama, "architectures", json!(["LlamaForSequenceClassification"]));
    refused(dir.path(), &["LlamaForSequenceClassification", hint]);
}

/// What can be built and not run is not among what is run.
#[test]
fn an_unknown_architecture_of_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let mut file = TinyGguf::default().file();
    file.set("general.architecture", gguf::Value::text("mamba"));
    file.write(&path);
    let path = path.to_str().unwrap();
    for plan in [&[][..], &["--layers", "0..n"]] {
        let said = infer(&[&["logits", path, "--ids", "3,4"], plan].concat());
        let said = said.refused(&[
            "tiny.gguf is of the architecture mamba, which is not run",
            "hint: the decoder runs LlamaForCausalLM, MistralForCausalLM",
        ]);
        assert!(!said.stderr.contains("gemma"), "{said:#?}");
    }
}

#[test]
fn a_setting_that_is_not_run() {
    #[track_caller]
    fn check(key: &'static str, value: Value, expected: &[&str]) {
        let model = TinyModel {
            extra_config: vec![(key, value)],
            config_form: ConfigForm::Old,
            ..TinyModel::of(Family::Qwen2)
        };
        refused(written(&model).path(), expected);
    }
    let unknown = json!({ "rope_type": "dynamic", "factor": 2.0 });
    check(
        "rope_scaling",
        unknown,
        &["`rope_scaling.rope_type` in", "is \"dynamic\", which is not run"],
    );
    check("rope_scaling", json!({ "type": "su" }), &["`rope_scaling.type`", "\"su\""]);
    check("rope_scaling", json!({ "type": "linear" }), &["`rope_scaling.factor`", "is absent"]);
    check(
        "rope_scaling",
        json!({ "factor": 4.0 }),
        &["`rope_scaling.rope_type`", "is absent, expected a name", "\"default\" for no scaling"],
    );
    let by_layer = json!({ "full_attention": { "rope_type": "default" } });
    check("rope_parameters", by_layer, &["`rope_parameters.full_attention`"]);
    check("partial_rotary_factor", 0.5.into(), &["`partial_rotary_factor`", "0.5"]);
    check("hidden_act", "gelu".into(), &["`hidden_act`", "\"gelu\", which is not run"]);
    check("quantization_config", json!({ "quant_method": "gptq" }), &["`quantization_config`"]);
    check("num_key_value_heads", 3.into(), &["`num_key_value_heads`", "a divisor of"]);
    check("head_dim", 5.into(), &["`head_dim`", "an even number"]);
    check("hidden_size", json!("16"), &["`hidden_size`", "is \"16\", expected a whole number"]);
    check("vocab_size", json!(null), &["`vocab_size`", "is null, expected a whole number"]);
    // Said before there is a list with an entry for each.
    for layers in [0_u64, 4_000_000_000] {
        let expected = format!("is {layers}, expected a whole number from 1 to 65,536");
        check("num_hidden_layers", layers.into(), &["`num_hidden_layers` in", &expected]);
    }
    check("layer_types", json!(["full_attention"]), &["`layer_types`", "an entry for each layer"]);
}

#[test]
fn missing_extra_and_misshapen_tensors() {
    let model = TinyModel::of(Family::Qwen2);
    let dir = written(&model);
    let change = |change: &dyn Fn(&mut Named)| {
        let mut tensors = model.tensors();
        change(&mut tensors);
        weights::write(dir.path(), &tensors, None);
    };
    change(&|tensors| tensors.retain(|(name, _)| !name.contains("2.self_attn.q_proj")));
    refused(
        dir.path(),
        &["`model.layers.2.self_attn.q_proj.weight` is missing in", ", as is 1 more", "hint: "],
    );
    change(&|tensors| tensors.retain(|(name, _)| name != "lm_head.weight"));
    refused(dir.path(), &["`lm_head.weight` is missing", "\"tie_word_embeddings\": true"]);
    let extra = Tensor::random("x", Dtype::BF16, &[4], 1.0);
    change(&|tensors| {
        tensors.push(("model.layers.4.input_layernorm.weight".to_owned(), extra.clone()));
        tensors.push(("model.layers.0.rotary_emb.inv_freq".to_owned(), extra.clone()));
    });
    refused(
        dir.path(),
        &["`model.layers.4.input_layernorm.weight` in", "not accounted for by the config\n"],
    );
    change(&|tensors| {
        let (_, tensor) =
            tensors.iter_mut().find(|(name, _)| name.ends_with("up_proj.weight")).unwrap();
        *tensor = Tensor::random("x", Dtype::BF16, &[16, 24], 0.0);
    });
    refused(
        dir.path(),
        &[
            "`model.layers.0.mlp.up_proj.weight`",
            "the shape [16, 24], but the config says [24, 16]",
        ],
    );
    change(&|tensors| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
        *tensor = Tensor::new(Dtype::I32, &[16], vec![0; 64]);
    });
    refused(dir.path(), &["`model.norm.weight` is stored as I32, which is not run"]);
    // A frequency buffer of old files is no more than that.
    change(&|tensors| {
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), extra.clone()));
    });
    infer(&["logits", dir.path().to_str().unwrap(), "--ids", "3"]).done();
}

#[test]
fn a_tied_flag_with_another_head_in_the_file_is_said_and_the_head_used() {
    let model = TinyModel::of(Family::Llama);
    let dir = written(&model);
    let top = |dir: &TempDir| {
        infer(&["logits", dir.path().to_str().unwrap(), "--ids", "3,4", "--json"]).done()
    };
    let untied = top(&dir);
    let tied = with(Family::Llama, "tie_word_embeddings", true.into());
    let said = top(&tied);
    assert_eq!(said.stdout, untied.stdout);
    assert!(said.stderr.contains("lm_head.weight holds other numbers: they are used"), "{said:?}");
    // The embedding once more is no contradiction.
    let mut tensors = model.tensors();
    let embedding = tensors[0].1.clone();
    tensors.last_mut().unwrap().1 = embedding;
    weights::write(tied.path(), &tensors, None);
    let said = top(&tied);
    assert_eq!(said.stderr, "");
    assert_ne!(said.stdout, untied.stdout);
}

#[test]
fn numbers_that_are_not_finite_are_named_with_the_layer_that_made_them() {
    #[track_caller]
    fn check(tensor: &str, expected: &str) {
        let model = TinyModel { dtype: Dtype::F32, ..TinyModel::of(Family::Mistral) };
        let dir = written(&model);
        let mut tensors = model.tensors();
        let (_, broken) = tensors.iter_mut().find(|(name, _)| name == tensor).unwrap();
        broken.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        weights::write(dir.path(), &tensors, None);
        let dir = dir.path().to_str().unwrap();
        let expected = format!("the logits are not finite: {expected} is the first");
        for command in [vec!["logits"], vec!["generate"], vec!["score"]] {
            let args = [command, vec![dir, "--ids", "0,3,4"]].concat();
            infer(&args).refused(&[&expected]);
        }
    }
    check("model.embed_tokens.weight", "the embedding");
    check("model.layers.0.self_attn.v_proj.weight", "layer 0");
    check("model.layers.2.mlp.down_proj.weight", "layer 2");
    check("lm_head.weight", "the final norm or the head");
}

/// The blame is found piece by piece, as the prompt was run.
#[test]
fn a_token_far_behind_the_first_piece_is_found() {
    let model = TinyModel { dtype: Dtype::F32, ..TinyModel::of(Family::Mistral) };
    let dir = written(&model);
    let mut tensors = model.tensors();
    // The last token's row, which only the last of 600 positions takes.
    let (name, embedding) = &mut tensors[0];
    assert_eq!(name, "model.embed_tokens.weight");
    let at = embedding.bytes.len() - 4;
    embedding.bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    weights::write(dir.path(), &tensors, None);
    let ids = format!("{}39", "3,".repeat(599));
    infer(&["logits", dir.path().to_str().unwrap(), "--ids", &ids])
        .refused(&["the logits are not finite: the embedding is the first"]);
}

#[test]
fn a_tokenizer_that_is_missing_broken_or_anothers() {
    let dir = written(&TinyModel::of(Family::Llama));
    let model = dir.path().to_str().unwrap();
    let file = dir.path().join("tokenizer.json");
    infer(&["logits", model, "depth"]).done();
    let mut tokenizer = raw::read_json(&file);
    tokenizer["model"]["vocab"]["foreign"] = 40.into();
    raw::write_json(&file, &tokenizer);
    for command in [vec!["logits", model, "depth"], vec!["tokens", model, "depth"]] {
        infer(&command).refused(&[
            "tokenizer.json has the token \"foreign\" with the id 40, but the model has ids up to 39",
            "hint: take the tokenizer files",
        ]);
    }
    // Tokens by number need none of it.
    let note = "note: tokens have numbers only, and no text: ";
    for command in ["logits", "generate", "score", "tokens"] {
        let said = infer(&[command, model, "--ids", "3,4"]).done();
        assert!(said.stderr.contains(note) && said.stderr.contains("\"foreign\""), "{said:#?}");
    }
    let said = infer(&["tokens", model, "--ids", "3,4", "--json"]).done().json();
    assert_eq!(said, json!({ "ids": [3, 4], "pieces": [null, null] }));
    infer(&["generate", model, "--ids", "3,4", "--stop", "x"]).refused(&["\"foreign\""]);
    std::fs::write(&file, "{").unwrap();
    infer(&["generate", model, "depth"]).refused(&["tokenizer.json is not read as a tokenizer"]);
    std::fs::remove_file(&file).unwrap();
    infer(&["generate", model, "depth"]).refused(&["has no tokenizer.json", "hint: --ids"]);
    infer(&["tokens", model, "depth"]).refused(&["has no tokenizer.json"]);
}

#[test]
fn prompts_that_do_not_fit() {
    let dir = with(Family::Llama, "max_position_embeddings", 8.into());
    let model = dir.path().to_str().unwrap();
    let long = "1,2,3,4,5,6,7,8,9";
    for command in ["logits", "generate"] {
        infer(&[command, model, "--ids", long])
            .refused(&["9 tokens are more than the 8 positions that the model has"]);
        infer(&[command, model, "--ids", "3,40"])
            .refused(&["there is no token 40: the model has ids up to 39"]);
        infer(&[command, model, "--ids", ""]).refused(&["the prompt is empty"]);
        infer(&[command, model, ""]).refused(&["the prompt is empty", "hint: "]);
        infer(&[command, model, "--ids", "3,x"])
            .refused(&["--ids is x, expected tokens by number"]);
    }
    infer(&["generate", model, "--ids", "3,4", "--max-length", "2"])
        .refused(&["the prompt has 2 tokens, which a length of at most 2 leaves no room behind"]);
    // A long text is no error to `score`.
    infer(&["score", model, "--ids", long]).done();
    infer(&["score", model, "--ids", "3"])
        .refused(&["1 tokens are too few to score: 2 are needed"]);
    infer(&["score", model, "--ids", long, "--window", "9"]).refused(&["9 tokens are more than"]);
    infer(&["score", model, "--ids", long, "--stride", "8"]).refused(&["--stride is 8, expected"]);
    infer(&["score", model, "--ids", long, "--chunks"]).refused(&["9 tokens are too few"]);
    // Also where a token is only predicted in the piece before the one that it is run in.
    let at = |first: usize| format!("1{},5000,1", ",3".repeat(first - 1));
    for first in [7, 512] {
        infer(&["score", &tiny(), "--ids", &at(first)])
            .refused(&["there is no token 5000: the model has ids up to 2047"]);
    }
    infer(&["compare", model, model, "--ids", "3,40"]).refused(&["there is no token 40"]);
    infer(&["score", model, "--text", "/no/such"]).refused(&["/no/such cannot be read"]);
}

#[test]
fn models_and_devices_that_are_not_there() {
    infer(&["logits", "./nothing", "x"]).refused(&["./nothing does not exist"]);
    infer(&["logits", "owner/name", "x"]).refused(&["cannot run owner/name", "owner/name"]);
    infer(&["logits", &tiny(), "x", "--device", "cuda:0"]).refused(&[
        "there is no device cuda:0: this infer was built for the CPU",
        "hint: `cargo install --path crates/infer --features cuda` builds one for it; docs/gpu.md",
    ]);
    infer(&["logits", &tiny(), "x", "--engine", "fast", "--device", "cpu"]).refused(&[
        "there is no fast engine for cpu",
        "hint: it is for NVIDIA's GPUs, in an infer that was built with --features cuda",
    ]);
    infer(&["generate", &tiny(), "x", "--top-p", "2"])
        .refused(&["--top-p is 2, expected from 0 to 1"]);
    infer(&["generate", &tiny(), "x", "--logit-bias", "2048=1"])
        .refused(&["there is no token 2048"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    TinyGguf::of("I8").write(&file);
    infer(&["logits", file.to_str().unwrap(), "--ids", "3"])
        .refused(&["is stored as I8, which is not run"]);
}

#[test]
fn sixteen_bits_are_near_thirty_two() {
    let top = |dtype: &str| {
        let said = infer(&["logits", &tiny(), "In the beginning", "--dtype", dtype, "--json"]);
        said.done().json()["top"][0].clone()
    };
    let exact = top("f32");
    assert_eq!(top("auto"), exact);
    for (dtype, tolerance) in [("f16", 0.1), ("float16", 0.1), ("bf16", 0.5)] {
        let found = top(dtype);
        assert_eq!(found[0], exact[0], "{dtype}");
        let difference = (found[1].as_f64().unwrap() - exact[1].as_f64().unwrap()).abs();
        assert!(difference > 0.0 && difference < tolerance, "{dtype}: {difference}");
    }
}

/// Weights of 3 TiB, which are a hole in a file: none are read.
#[cfg(target_os = "linux")]
#[test]
fn a_model_that_memory_has_no_room_for() {
    let (hidden, inner) = (1_u64 << 15, 1_u64 << 22);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![64, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        ("lm_head.weight".to_owned(), vec![64, hidden]),
    ];
    for layer in 0..4 {
        let mut add = |name: &str, shape: &[u64]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[hidden, hidden]);
        }
        add("mlp.gate_proj", &[inner, hidden]);
        add("mlp.up_proj", &[inner, hidden]);
        add("mlp.down_proj", &[hidden, inner]);
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        let tensor = json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] });
        header.insert(name, tensor);
    }
    let header = Value::from(header).to_string();
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + end).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 4,
        "num_attention_heads": 256, "num_key_value_heads": 256, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "float16",
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();

    refused(dir.path(), &["embedding, layers 0..4, head need 31", "GiB on cpu, which has"]);
    let said = infer(&["inspect", dir.path().to_str().unwrap()]).done();
    assert!(said.stdout.contains("it does not fit on cpu"), "{said:#?}");
}
