//! Metadata of GGUF files, deepened.

use std::path::Path;

use checkpoint::gguf::{Metadata, ToValue};

use crate::settings::{SettingError, deepen_metadata};

/// The metadata of a file of `architecture` with that many blocks, and a window.
fn file(architecture: &str, blocks: u32) -> Metadata {
    let mut metadata = Metadata::new(Path::new("base.gguf"));
    metadata.set("general.architecture", architecture);
    metadata.set(&format!("{architecture}.block_count"), &blocks);
    metadata.set(&format!("{architecture}.attention.sliding_window"), &1024_u32);
    metadata
}

fn with<T: ToValue + ?Sized>(mut metadata: Metadata, key: &str, value: &T) -> Metadata {
    metadata.set(key, value);
    metadata
}

fn architecture(metadata: &Metadata) -> String {
    metadata.str("general.architecture").unwrap().unwrap().to_owned()
}

fn deepened(mut base: Metadata, layers: &[usize]) -> Result<(Metadata, Vec<String>), SettingError> {
    let architecture = architecture(&base);
    let number = |suffix: &str| base.u64(&format!("{architecture}.{suffix}")).unwrap().unwrap_or(0);
    let num_base_layers = number("block_count") - number("nextn_predict_layers");
    let notes =
        deepen_metadata(&mut base, &architecture, layers, num_base_layers.try_into().unwrap())?;
    Ok((base, notes))
}

/// SOLAR's plan.
fn dus(num_layers: usize, drop: usize) -> Vec<usize> {
    (0..num_layers - drop).chain(drop..num_layers).collect()
}

/// The layers with `by` of them twice: all behind the middle move up by that many.
fn shifted(num_layers: usize, by: usize) -> Vec<usize> {
    (0..num_layers / 2).chain(num_layers / 2 - by..num_layers).collect()
}

fn numbers(metadata: &Metadata, key: &str) -> Vec<u64> {
    metadata.array(key).unwrap().unwrap().iter().map(|value| value.as_u64().unwrap()).collect()
}

/// Checks that the plan passes without a word, with as many blocks as it has layers.
#[track_caller]
fn passes(base: Metadata, layers: &[usize]) {
    let key = format!("{}.block_count", architecture(&base));
    let (built, notes) = deepened(base, layers).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(built.u64(&key).unwrap(), Some(layers.len() as u64));
    assert!(notes.is_empty(), "{notes:?}");
}

#[track_caller]
fn refused(base: Metadata, layers: &[usize], named: &[&str]) {
    let text = deepened(base, layers).unwrap_err().to_string();
    for name in named {
        assert!(text.contains(name), "{name} is not in: {text}");
    }
}

#[test]
fn blocks_are_counted_with_prediction_layers() {
    let base = with(file("glm4moe", 5), "glm4moe.nextn_predict_layers", &1_u32);
    let base = with(base, "glm4moe.attention.head_count_kv", &vec![1_u32, 2, 3, 4, 9]);
    let base = with(base, "glm4moe.feed_forward_length", &vec![10_i32, 20, 30, 40]);
    let (built, _) = deepened(base, &dus(4, 1)).unwrap();
    assert_eq!(built.u64("glm4moe.block_count").unwrap(), Some(7));
    assert_eq!(built.u64("glm4moe.nextn_predict_layers").unwrap(), Some(1));
    assert_eq!(numbers(&built, "glm4moe.attention.head_count_kv"), [1, 2, 3, 2, 3, 4, 9]);
    assert_eq!(numbers(&built, "glm4moe.feed_forward_length"), [10, 20, 30, 20, 30, 40]);

    let mut base = file("llama", 33);
    let error = deepen_metadata(&mut base, "llama", &[0, 1], 32).unwrap_err().to_string();
    assert!(error.contains("llama.block_count") && error.contains("33"), "{error}");
    let mut base = with(file("llama", 2), "llama.nextn_predict_layers", &u64::MAX);
    assert!(deepen_metadata(&mut base, "llama", &[0, 1], 2).is_err());
    refused(file("llama", 4), &[0, 4], &["layer 4"]);
}

#[test]
fn five_hundred_and_twelve_layers_are_the_most() {
    let layers = |count: usize| -> Vec<usize> { (0..32).cycle().take(count).collect() };
    passes(file("llama", 32), &layers(512));
    refused(file("llama", 32), &layers(513), &["llama.block_count", "513", "512"]);
}

#[test]
fn arrays_go_by_layer_if_they_are_known_to() {
    const PLAN: [usize; 4] = [0, 1, 1, 2];
    let base = with(file("apertus", 3), "xielu.alpha_n", &vec![1_u32, 2, 3]);
    let base = with(base, "apertus.rope.dimension_sections", &vec![1_i32, 2, 3]);
    let base = with(base, "tokenizer.ggml.scores", &vec![1.0_f32, 2.0, 3.0]);
    let base = with(base, "apertus.attention.head_count", &8_u32);
    let (built, _) = deepened(base.clone(), &PLAN).unwrap();
    assert_eq!(numbers(&built, "xielu.alpha_n"), [1, 2, 2, 3]);
    assert_eq!(numbers(&built, "apertus.rope.dimension_sections"), [1, 2, 3]);
    assert_eq!(built.array("tokenizer.ggml.scores").unwrap().unwrap().len(), 3);

    let unknown = with(base.clone(), "apertus.mystery", &vec![true; 3]);
    refused(unknown, &PLAN, &["`apertus.mystery`", "3"]);
    passes(with(base.clone(), "apertus.mystery", &vec![true; 4]), &PLAN);
    let short = with(base.clone(), "apertus.attention.head_count_kv", &vec![1_u32; 2]);
    refused(short, &PLAN, &["apertus.attention.head_count_kv", "2", "3"]);
    let names = vec!["blk.2.ffn_up.weight".to_owned()];
    let names = with(base, "general.tensor_extra.name", &names);
    refused(names, &PLAN, &["general.tensor_extra.name", "blk.2.ffn_up.weight"]);
}

#[test]
fn counts_that_the_loader_computes_with_stay() {
    refused(file("gemma2", 46), &dus(46, 6), &["gemma2.block_count", "46"]);
    refused(file("gemma2", 42), &dus(42, 19), &["gemma2.block_count", "46"]);
    refused(file("gemma3", 62), &dus(62, 6), &["gemma3.block_count", "62"]);
    refused(file("gemma3", 48), &dus(48, 17), &["gemma3.block_count", "62"]);
    refused(file("exaone4", 64), &dus(64, 8), &["exaone4.block_count"]);
    refused(file("baichuan", 32), &dus(32, 8), &["baichuan.block_count"]);
    refused(file("minicpm3", 62), &dus(62, 8), &["minicpm3"]);
    refused(file("gemma3n", 30), &dus(30, 5), &["gemma3n"]);
    passes(file("gemma2", 42), &dus(42, 6));
    passes(file("gemma3", 48), &dus(48, 6));
    passes(file("exaone4", 30), &dus(30, 7));
    // the same layers in the same order are the same model
    passes(file("baichuan", 32), &dus(32, 16));
}

#[test]
fn layers_keep_the_window_that_the_loader_gives_them() {
    const GEMMA3: &str = "gemma3.attention.sliding_window_pattern";
    let key = "gemma2.attention.sliding_window_pattern";
    refused(file("gemma2", 26), &shifted(26, 5), &[key, "layer 13", "layer 8", "window"]);
    passes(file("gemma2", 26), &shifted(26, 4));
    refused(file("gemma3", 26), &dus(26, 5), &[GEMMA3]);
    passes(file("gemma3", 26), &dus(26, 10));
    passes(with(file("gemma3", 26), "gemma3.attention.sliding_window", &0_u32), &dus(26, 5));
    // a list goes with the layers, and a stated group counts
    let list: Vec<bool> = (0..26).map(|layer| layer % 6 < 5).collect();
    let (built, _) = deepened(with(file("gemma3", 26), GEMMA3, &list), &dus(26, 5)).unwrap();
    let kinds = built.array(GEMMA3).unwrap().unwrap();
    let expected = dus(26, 5).into_iter().map(|layer| Some(list[layer]));
    assert!(kinds.iter().map(|kind| kind.as_bool()).eq(expected));
    passes(with(file("gemma3", 26), GEMMA3, &2_u32), &shifted(26, 4));
    refused(with(file("gemma3", 26), GEMMA3, &2_u32), &shifted(26, 5), &[GEMMA3]);

    for (architecture, group) in
        [("cohere2", 4), ("gpt-oss", 2), ("olmo2", 4), ("llama4", 4), ("plamo3", 8), ("laguna", 4)]
    {
        let base = || file(architecture, 32);
        let key = format!("{architecture}.attention.sliding_window_pattern");
        refused(base(), &shifted(32, group + 1), &[&key]);
        passes(base(), &shifted(32, group));
    }
    for architecture in ["olmo2", "llama4", "plamo3", "laguna"] {
        let key = format!("{architecture}.attention.sliding_window");
        let base = with(file(architecture, 32), &key, &0_u32);
        passes(base, &shifted(32, 5));
    }
    // these have no window by number
    passes(file("llama", 32), &shifted(32, 5));
    passes(file("phi3", 32), &shifted(32, 5));
}

#[test]
fn layers_keep_what_else_the_loader_gives_them() {
    refused(file("smollm3", 36), &dus(36, 5), &["smollm3", "positions"]);
    passes(file("smollm3", 36), &dus(36, 8));
    refused(file("qwen3next", 48), &dus(48, 7), &["qwen3next.full_attention_interval"]);
    let stated = with(file("qwen3next", 48), "qwen3next.full_attention_interval", &3_u32);
    passes(stated, &dus(48, 6));
    let list = with(file("qwen3next", 8), "qwen3next.attention.recurrent_layers", &vec![true; 8]);
    passes(list, &dus(8, 3));
    let step = with(file("ernie4_5-moe", 28), "ernie4_5-moe.interleave_moe_layer_step", &2_u32);
    refused(step, &shifted(28, 3), &["interleave_moe_layer_step"]);
    refused(file("rwkv7", 24), &dus(24, 0), &["rwkv7", "first layer"]);
    passes(file("rwkv7", 24), &dus(24, 4));
}

#[test]
fn a_bound_of_dense_layers_moves() {
    const KEY: &str = "deepseek.leading_dense_block_count";
    let base = || with(file("deepseek", 8), KEY, &1_u32);
    passes(base(), &dus(8, 2));
    let (built, notes) = deepened(base(), &[0, 0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert_eq!(built.u64(KEY).unwrap(), Some(2));
    assert!(notes[0].contains(KEY), "{notes:?}");
    refused(base(), &dus(8, 0), &[KEY, "a dense layer"]);
    let all = with(file("deepseek", 8), KEY, &8_u32);
    let (built, _) = deepened(all, &dus(8, 2)).unwrap();
    assert_eq!(built.u64(KEY).unwrap(), Some(12));
}

#[test]
fn what_depends_on_the_depth_is_refused_or_stated() {
    for (suffix, value) in
        [("attention.shared_kv_layers", 2_u32), ("rescale_every_n_layers", 6), ("num_loops", 2)]
    {
        let key = format!("other.{suffix}");
        refused(with(file("other", 8), &key, &value), &dus(8, 2), &[&key]);
        passes(with(file("other", 8), &key, &0_u32), &dus(8, 2));
    }
    let (built, notes) = deepened(file("minicpm", 40), &dus(40, 8)).unwrap();
    let scale = built.f64("minicpm.residual_scale").unwrap().unwrap();
    assert!((scale - 1.4 / 40_f64.sqrt()).abs() < 1e-7);
    assert!(notes[0].contains("minicpm.residual_scale"));
    let stated = with(file("minicpm", 40), "minicpm.residual_scale", &0.2_f32);
    passes(stated, &dus(40, 8));
}
