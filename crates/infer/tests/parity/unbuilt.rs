//! A plan that is run without building it gives, bit for bit, the logits of the model that it builds.

use std::fs;
use std::path::Path;

use dus::blueprint::{Blueprint, LayoutKind};
use dus::build::{self, Options};
use dus::output::Output;
use dus::recipe::{Draft, Form};
use infer::device::Place;
use infer::load::Arithmetic;
use infer::open::{Opened, Spec, Wanted};
use infer::progress::Watch;
use infer::source::WeightSource;
use infer::unbuilt::UnbuiltWeights;
use testkit::gguf::TinyGguf;
use testkit::{Dtype, Family, TinyModel};

use crate::references::ROOT;

/// The bits of the logits of the last of a few tokens.
#[track_caller]
fn bits(model: &str, layers: Option<&str>) -> Vec<u32> {
    bits_by(Arithmetic::F32, model, layers)
}

#[track_caller]
fn bits_by(arithmetic: Arithmetic, model: &str, layers: Option<&str>) -> Vec<u32> {
    bits_of(24, arithmetic, model, layers)
}

/// Those of the last eight of more tokens.
#[track_caller]
fn bits_of(
    num_tokens: usize,
    arithmetic: Arithmetic,
    model: &str,
    layers: Option<&str>,
) -> Vec<u32> {
    let spec = Spec { layers: layers.map(str::to_owned), ..Spec::new(model) };
    let watch = Watch::nobody();
    let opened = Opened::find(&spec, Wanted::Weights, &watch).unwrap();
    let model = opened.load(arithmetic, Place::Cpu, &watch).unwrap();
    let tokens: Vec<u32> = (0..num_tokens as u32).map(|i| (7 * i * i + 3 * i) % 40).collect();
    let mut cache = model.cache(tokens.len()).unwrap();
    let hidden = model.forward(&tokens, &mut cache).unwrap();
    let hidden = hidden.narrow(0, num_tokens - 8, 8).unwrap();
    let logits = model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()));
    logits.into_iter().map(f32::to_bits).collect()
}

/// Builds `recipe`, a text in the folder `dir`, and returns the recipe's path and the build's.
fn build(dir: &Path, recipe: &str) -> (String, String) {
    let path = dir.join("recipe.toml");
    fs::write(&path, recipe).unwrap();
    let recipe = Draft::read(&path).unwrap().finish().unwrap();
    let blueprint = Blueprint::new(recipe, LayoutKind::Size, None).unwrap();
    let out = dir.join(if blueprint.form() == Form::Gguf { "built.gguf" } else { "built" });
    let output = Output::at(&out, blueprint.form()).unwrap();
    let options = Options { force: true, ..Options::default() };
    build::build(&blueprint, output, &options, &dus::progress::Watch::nobody()).unwrap();
    (path.display().to_string(), out.display().to_string())
}

fn tiny_mistral() -> String {
    Path::new(ROOT).join("examples/tiny-mistral-32l").canonicalize().unwrap().display().to_string()
}

#[test]
fn unbuilt_and_built_are_bit_equal() {
    #[track_caller]
    fn check(base: &str, rest: &str) {
        let dir = tempfile::tempdir().unwrap();
        let (recipe, built) = build(dir.path(), &format!("base = {base:?}\n{rest}"));
        assert_eq!(bits(&recipe, None), bits(&built, None), "{rest}");
    }
    let tiny = tiny_mistral();
    check(&tiny, "layers = 'dus(8)'\narchitecture = 'llama'\n");
    check(&tiny, "layers = 'dus(8){new o_proj: scale 0.5, new down_proj: zero}'\n");
    check(&tiny, "layers = '0..8 + (8..16)*2 + 16..32'\ndtype = 'float16'\n");
    check(&tiny, "layers = 'dus(12){new *: noise 0.1 seed=7}'\ndtype = 'float32'\n");
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        for dtype in [Dtype::F32, Dtype::F16] {
            let dir = tempfile::tempdir().unwrap();
            TinyModel { dtype, num_shards: Some(2), ..TinyModel::of(family) }.write(dir.path());
            let base = dir.path().display().to_string();
            check(&base, "layers = '0..3 + 1..4'\ndtype = 'bfloat16'\n");
            check(&base, "layers = 'interleave(0..2, 2..4) + 3{*: scale 0.3}'\n");
        }
    }
}

/// The tiny model's window is 256 keys.
#[test]
fn so_they_are_past_a_sliding_window() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny_mistral();
    let (recipe, built) = build(dir.path(), &format!("base = {tiny:?}\nlayers = '0..6 + 2..8'\n"));
    let last = |model: &str| bits_of(300, Arithmetic::F32, model, None);
    assert_eq!(last(&recipe), last(&built));
}

/// Kept quantised or decoded, from files to files, to folders and from folders.
#[test]
fn so_are_plans_of_gguf_files() {
    #[track_caller]
    fn check(dir: &Path, recipe: &str) {
        let (recipe_path, built) = build(dir, recipe);
        for arithmetic in [Arithmetic::Auto, Arithmetic::F32] {
            let unbuilt = bits_by(arithmetic, &recipe_path, None);
            assert_eq!(unbuilt, bits_by(arithmetic, &built, None), "{recipe} {arithmetic:?}");
        }
    }
    for kind in ["F16", "Q4_1", "Q8_0", "Q4_K"] {
        let dir = tempfile::tempdir().unwrap();
        TinyGguf::of(kind).write(&dir.path().join("base.gguf"));
        check(dir.path(), "base = 'base.gguf'\nlayers = '0..2 + 1..n'\n");
        let operations = "0..2{*: scale 0.5} + 1..n{o_proj: zero}";
        if kind != "Q4_K" {
            check(dir.path(), &format!("base = 'base.gguf'\nlayers = '{operations}'\n"));
        }
        let cast = "to = 'hf'\ndtype = 'float16'\n";
        check(dir.path(), &format!("base = 'base.gguf'\nlayers = '0..2 + 1..n'\n{cast}"));
    }
    let dir = tempfile::tempdir().unwrap();
    let base = tiny_mistral();
    let to = "layers = 'dus(8)'\nto = 'gguf'\n";
    check(dir.path(), &format!("base = {base:?}\n{to}dtype = 'q8_0'\n"));
    check(dir.path(), &format!("base = {base:?}\n{to}dtype = 'bfloat16'\n"));
}

#[test]
fn several_models_give_one() {
    let dir = tempfile::tempdir().unwrap();
    for (name, seed) in [("x", 1), ("y", 2)] {
        TinyModel { seed, ..TinyModel::default() }.write(&dir.path().join(name));
    }
    let recipe = "layers = 'x:0..3 + y:1..4'\nlm_head = 'x'\n[models]\nx = 'x'\ny = 'y'\n";
    let (recipe, built) = build(dir.path(), recipe);
    assert_eq!(bits(&recipe, None), bits(&built, None));
    // A plan that is given wins over the recipe's.
    assert_ne!(bits(&recipe, Some("x:0..4")), bits(&built, None));
}

/// An identity plan, and layers whose branches end in zeros, are the base.
#[test]
fn a_plan_that_preserves_the_function_is_the_base() {
    let base = tiny_mistral();
    let expected = bits(&base, None);
    assert_eq!(bits(&base, Some("0..n")), expected);
    let identity = "insert(0..n, every=4, copy{o_proj: zero, down_proj: zero})";
    assert_eq!(bits(&base, Some(identity)), expected);
    assert_ne!(bits(&base, Some("dus(8)")), expected);
}

/// 48 layers made of 32 take the memory of 32.
#[test]
fn layers_of_the_same_bytes_share_them() {
    let weights = |layers: &str| {
        let source = dus::recipe::Source { spec: tiny_mistral(), relative_to: "".into() };
        let draft = Draft { base: Some(source), layers: Some(layers.into()), ..Draft::default() };
        let recipe = draft.finish().unwrap();
        let blueprint = Blueprint::new(recipe, LayoutKind::Size, None).unwrap();
        let watch = dus::progress::Watch::nobody();
        let unbuilt = dus::unbuilt::Unbuilt::new(blueprint, &watch).unwrap();
        let dtype = candle_core::DType::F32;
        UnbuiltWeights::open(unbuilt.into(), dtype).unwrap()
    };
    let bytes = |weights: &UnbuiltWeights| -> u64 {
        weights.names().iter().map(|name| weights.stored_bytes(name)).sum()
    };
    let (base, deep) = (weights("0..n"), weights("dus(8)"));
    assert_eq!(bytes(&deep), bytes(&base));
    let storage = |weights: &UnbuiltWeights, name: &str| {
        let norm = weights.vector(name, &candle_core::Device::Cpu).unwrap();
        let (storage, _) = norm.storage_and_layout();
        std::ptr::from_ref(&*storage).addr()
    };
    let norm = |layer: usize| format!("model.layers.{layer}.input_layernorm.weight");
    assert_eq!(storage(&deep, &norm(8)), storage(&deep, &norm(24)));
    assert_ne!(storage(&deep, &norm(8)), storage(&deep, &norm(9)));
}
