//! Metadata that contradict the tensors, each other, or say what config.json has no words for.

use super::*;

/// A file's metadata and what is known of its tensors.
struct File {
    architecture: &'static Architecture,
    metadata: Metadata,
    tensors: Vec<HeaderTensor>,
    rope: RopeFactors,
}

impl File {
    fn of(name: &str) -> Self {
        let record = record("tiny", name);
        let config = object(&record["config"]);
        let architecture = Architecture::of_config(&config).unwrap();
        let tensors = tensors_of(&config, architecture);
        let rope = rope_factors(|tensor| numbers(&record["tensors"][tensor.name()][2]));
        Self { architecture, metadata: metadata(&record), tensors, rope }
    }

    fn with<T: checkpoint::gguf::ToValue + ?Sized>(name: &str, key: &str, value: &T) -> Self {
        let mut file = Self::of(name);
        file.metadata.set(key, value);
        file
    }

    fn tensor(&mut self, name: &str) -> &mut HeaderTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    fn without(name: &str, tensor: &str) -> Self {
        let mut file = Self::of(name);
        file.tensors.retain(|it| it.name != tensor);
        file
    }

    fn described(&self) -> checkpoint::Result<checkpoint::gguf::config::Described> {
        let facts = Facts { tensors: &self.tensors, rope: self.rope.clone() };
        config_from_metadata(&self.metadata, self.architecture, &facts)
    }

    #[track_caller]
    fn config(&self) -> Json {
        serde_json::from_str(&self.described().unwrap().config.to_string()).unwrap()
    }

    /// Checks that it is refused, and that the error names all of `named`.
    #[track_caller]
    fn refused(&self, named: &[&str]) {
        let error = self.described().unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error} {}", source.unwrap_or_default());
        for name in named {
            assert!(text.contains(name), "{name} is not in: {text}");
        }
    }
}

#[test]
fn layers_are_as_many_as_counted() {
    File::with("llama", "llama.block_count", &3_u32).refused(&[
        "llama.block_count",
        "is 3",
        "blk.2.attn_norm.weight",
    ]);
    File::with("llama", "llama.block_count", &1_u32).refused(&["llama.block_count", "blk.1."]);
    File::with("llama", "llama.block_count", &u64::MAX).refused(&["llama.block_count"]);
    File::with("llama", "llama.block_count", "two").refused(&["llama.block_count"]);
    File::without("qwen3", "blk.1.attn_q_norm.weight").refused(&["blk.1.attn_q_norm.weight"]);
    File::without("gemma2", "output_norm.weight").refused(&["output_norm.weight"]);
    let mut file = File::of("llama");
    file.tensors.push(header_tensor("blk.0.attn_gate.weight", vec![2, 2]));
    file.refused(&["blk.0.attn_gate.weight", "llama"]);
    let mut file = File::of("llama");
    file.metadata.remove(|key| key == "llama.block_count");
    file.refused(&["llama.block_count"]);
}

#[test]
fn prediction_layers_have_no_place() {
    File::with("qwen2", "qwen2.nextn_predict_layers", &1_u32).refused(&["nextn_predict_layers"]);
    File::with("qwen2", "qwen2.nextn_predict_layers", &0_u32).config();
}

#[test]
fn sizes_are_those_of_the_tensors() {
    for (model, key, tensor) in [
        ("llama", "llama.embedding_length", "token_embd.weight"),
        ("llama", "llama.feed_forward_length", "blk.0.ffn_gate.weight"),
        ("mistral", "llama.attention.head_count", "attn_q.weight"),
        ("llama-biased", "llama.attention.head_count_kv", "attn_k.weight"),
        ("qwen3", "qwen3.attention.head_count_kv", "attn_k.weight"),
        ("phi3", "phi3.attention.head_count_kv", "attn_qkv.weight"),
        ("phi3", "phi3.feed_forward_length", "ffn_up.weight"),
        ("gemma3", "gemma3.feed_forward_length", "ffn_gate.weight"),
    ] {
        let was = File::of(model).metadata.u64(key).unwrap().unwrap();
        let mut file = File::with(model, key, &(was * 2));
        file.rope = RopeFactors::default();
        file.refused(&[key, tensor]);
    }
    let mut file = File::of("gemma2");
    file.tensor("blk.1.post_ffw_norm.weight").shape = vec![31];
    file.refused(&["blk.1.post_ffw_norm.weight", "gemma2.embedding_length", "[31]"]);
    File::with("llama", "llama.attention.head_count", &0_u32)
        .refused(&["llama.attention.head_count"]);
}

#[test]
fn the_vocabulary_is_as_long_as_the_embeddings() {
    let tokens = vec!["a".to_owned(); 95];
    File::with("qwen2", "tokenizer.ggml.tokens", &tokens).refused(&[
        "tokenizer.ggml.tokens",
        "95",
        "token_embd.weight",
        "96",
    ]);
    File::with("llama", "llama.vocab_size", &97_u32)
        .refused(&["llama.vocab_size", "token_embd.weight"]);
    let mut file = File::of("llama");
    file.tensor("output.weight").shape = vec![95, 32];
    file.refused(&["output.weight", "token_embd.weight"]);
}

#[test]
fn one_number_for_all_layers_may_be_written_once_a_layer() {
    let file = File::with("llama", "llama.attention.head_count_kv", &vec![2_i32, 2]);
    assert_eq!(file.config()["num_key_value_heads"], 2);
    File::with("llama", "llama.attention.head_count_kv", &vec![2_u32, 4]).refused(&[
        "llama.attention.head_count_kv",
        "2",
        "4",
    ]);
    File::with("llama", "llama.feed_forward_length", &vec![64_u32; 3]).refused(&[
        "llama.feed_forward_length",
        "3 values",
        "llama.block_count",
    ]);
    File::with("gemma3", "gemma3.attention.sliding_window_pattern", &vec![true; 6])
        .refused(&["gemma3.attention.sliding_window_pattern", "6 values"]);
}

#[test]
fn a_pattern_of_windows_is_read_in_both_forms() {
    let kinds = |file: &File| -> Vec<bool> {
        let config = file.config();
        let kinds = config["layer_types"].as_array().unwrap().iter();
        kinds.map(|kind| kind == "sliding_attention").collect()
    };
    let key = "gemma3.attention.sliding_window_pattern";
    let list = [true, false, false, true, true, true, false];
    assert_eq!(kinds(&File::with("gemma3", key, &list[..])), list);
    let thirds = [true, true, false, true, true, false, true];
    assert_eq!(kinds(&File::with("gemma3", key, &3_u32)), thirds);
    assert_eq!(kinds(&File::with("gemma3", "gemma3.attention.sliding_window", &0_u32)), [false; 7]);
    let mut file = File::of("gemma2");
    file.metadata.remove(|key| key.ends_with("softcapping") || key.ends_with("sliding_window"));
    let config = file.config();
    assert_eq!(config["sliding_window"], 4096);
    assert_eq!(config["attn_logit_softcapping"], 50.0);
    assert_eq!(config["final_logit_softcapping"], 30.0);
}

#[test]
fn heads_are_of_one_size() {
    File::with("llama", "llama.attention.value_length", &16_u32)
        .refused(&["llama.attention.value_length", "16"]);
    File::with("qwen2", "qwen2.attention.key_length", &16_u32)
        .refused(&["qwen2.attention.key_length"]);
    File::with("llama", "llama.rope.dimension_count", &4_u32)
        .refused(&["llama.rope.dimension_count"]);
    File::with("phi3", "phi3.rope.dimension_count", &16_u32)
        .refused(&["phi3.rope.dimension_count"]);
}

#[test]
fn biases_are_in_all_layers_or_none() {
    File::without("llama-biased", "blk.1.attn_v.bias").refused(&["blk.1.attn_v.bias"]);
    File::without("qwen2", "blk.0.attn_k.bias").refused(&["blk.0.attn_k.bias", "Qwen2ForCausalLM"]);
    File::with("llama-biased", "llama.attention.sliding_window", &8_u32)
        .refused(&[".bias", "MistralForCausalLM"]);
}

#[test]
fn ways_of_stretching_rope_are_told_apart() {
    let key = "llama.rope.scaling.type";
    File::with("mistral", key, "mystery").refused(&[key, "mystery"]);
    let mut file = File::with("mistral", "llama.rope.scale_linear", &2.5_f32);
    assert_eq!(file.config()["rope_scaling"]["factor"], 2.5);
    file.metadata.set(key, "none");
    assert_eq!(file.config()["rope_scaling"], Json::Null);
    file.metadata.set(key, "yarn");
    assert_eq!(file.config()["rope_scaling"]["original_max_position_embeddings"], 256);
    File::with("llama", "llama.rope.scaling.factor", &2.0_f32).refused(&["rope_freqs.weight", key]);
    File::with("gemma2", "gemma2.rope.scaling.factor", &2.0_f32).refused(&["linear", "gemma2"]);
    File::with("mistral", "llama.rope.scaling.attn_factor", &1.5_f32).refused(&["attn_factor"]);

    let mut file = File::of("llama");
    file.rope.frequencies = Some(vec![1.0; 4]);
    assert_eq!(file.config()["rope_scaling"], Json::Null);
    file.rope.frequencies = Some(vec![1.0, 5.0, 2.0, 8.0]);
    file.refused(&["rope_freqs.weight"]);
    file.rope.frequencies = Some(vec![1.0; 3]);
    file.refused(&["rope_freqs.weight", "3 numbers"]);
    let mut file = File::of("phi3");
    file.rope.short = None;
    file.refused(&["rope_factors_short.weight"]);
    let mut file = File::with("phi3", "phi3.rope.scaling.attn_factor", &1.5_f32);
    assert_eq!(file.config()["rope_scaling"]["attention_factor"], 1.5);
    file.metadata.set("phi3.rope.freq_base", &f32::NAN);
    file.refused(&["phi3.rope.freq_base"]);
}

#[test]
fn what_is_left_out_is_said() {
    let file = File::with("llama", "llama.mystery", &1_u32);
    let notes = file.described().unwrap().notes;
    assert!(matches!(&notes[..], [note] if note.contains("`llama.mystery`")), "{notes:?}");
    File::with("llama", "llama.expert_count", &8_u32).refused(&["llama.expert_count"]);
    File::with("qwen3", "qwen3.attention.causal", &false).refused(&["qwen3.attention.causal"]);

    let mut file = File::with("llama", "tokenizer.ggml.eos_token_id", &2_u32);
    file.metadata.set("tokenizer.ggml.padding_token_id", &u32::MAX);
    let described = file.described().unwrap();
    assert_eq!(described.config.get("eos_token_id"), Some(2.into()));
    assert_eq!(described.config.get("pad_token_id"), Some(Json::Null));
    assert!(described.notes[0].contains("padding_token_id"));
}

#[test]
fn only_known_architectures_are_read() {
    let mut metadata = Metadata::new(Path::new("x.gguf"));
    let text = |metadata: &Metadata| {
        let error = Architecture::of_metadata(metadata).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert!(text(&metadata).contains("general.architecture"));
    metadata.set("general.architecture", "mamba");
    let known = "`mamba`; known are llama, qwen2, qwen3, gemma2, gemma3, phi3";
    assert!(text(&metadata).contains(known), "{}", text(&metadata));
}
