//! What a recipe's keys mean, which go together, and what flags do to them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Dtype, TinyModel, raw, splice, weights};

use crate::dus::{Said, dus, run};

/// A folder with two models of four layers, `a` and `b`, and `text` as `recipes/recipe.toml`.
fn with_recipe(text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, seed) in [("a", 1), ("b", 2)] {
        TinyModel { seed, ..TinyModel::default() }.write(&dir.path().join(name));
    }
    fs::create_dir(dir.path().join("recipes")).unwrap();
    fs::write(dir.path().join("recipes/recipe.toml"), text).unwrap();
    dir
}

fn plan(dir: &Path, flags: &[&str]) -> Said {
    run(dus(dir), &[&["plan", "recipes/recipe.toml", "--json"], flags].concat())
}

fn build(dir: &Path, flags: &[&str]) -> Said {
    let args = ["build", "recipes/recipe.toml", "--json", "--force", "-o", "out"];
    run(dus(dir), &[&args, flags].concat())
}

#[track_caller]
fn check_refused(text: &str, flags: &[&str], expected: &[&str]) {
    let dir = with_recipe(text);
    plan(dir.path(), flags).refused(expected);
    build(dir.path(), flags).refused(expected);
    assert!(!dir.path().join("out").exists());
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    for key in ["bases", "Base", "layer", "max-shard-size", "merge_method", "dytpe"] {
        let text = format!("base = \"../a\"\n\nlayers = \"dus(1)\"\n{key} = \"x\"\n");
        check_refused(&text, &[], &["recipe.toml", key, "line 4"]);
    }
    let text = "base = \"../a\"\nlayers = \"dus(1)\"\n\n[model]\nx = \"../a\"\n";
    check_refused(text, &[], &["recipe.toml", "model", "line 4"]);
    // An unknown key is refused also where a flag gives what it was meant to.
    let text = "base = \"../a\"\nlayer = \"dus(1)\"\n";
    check_refused(text, &["--layers", "dus(1)"], &["`layer`", "line 2"]);
}

#[test]
fn a_value_of_a_wrong_type_is_named_with_its_line() {
    let keys = ["architecture", "dtype", "embeddings", "norm", "lm_head"];
    for (key, value) in keys.iter().flat_map(|key| [(key, "3"), (key, "[\"a\"]"), (key, "true")]) {
        let text = format!("base = \"../a\"\nlayers = \"dus(1)\"\n{key} = {value}\n");
        check_refused(&text, &[], &["recipe.toml", key, "line 3"]);
    }
    for value in ["-1", "0.5", "true", "[1]"] {
        let text = format!("base = \"../a\"\nlayers = \"dus(1)\"\nmax_shard_size = {value}\n");
        check_refused(&text, &[], &["recipe.toml", "max_shard_size", "line 3"]);
    }
    check_refused("base = 1\nlayers = \"dus(1)\"\n", &[], &["base", "line 1"]);
    check_refused("base = \"../a\"\nlayers = [0, 1]\n", &[], &["layers", "line 2"]);
    check_refused("layers = \"dus(1)\"\nmodels = \"../a\"\n", &[], &["models", "line 2"]);
    check_refused("layers = \"dus(1)\"\n[models]\nx = 7\n", &[], &["x = 7", "line 3"]);
}

#[test]
fn base_and_models_do_not_go_together() {
    let base = "base = \"../a\"\nlayers = \"dus(1)\"\n";
    let models = "layers = \"x:0..4 + x:1..4\"\n[models]\nx = \"../a\"\n";
    let both = format!("base = \"../b\"\n{models}");
    check_refused(&both, &[], &["`base`", "[models]"]);
    check_refused(base, &["--model", "x=b"], &["`base`", "[models]"]);
    check_refused(models, &["--base", "b"], &["`base`", "[models]"]);
    check_refused(&both, &["--base", "b"], &["`base`", "[models]"]);
}

#[test]
fn what_a_recipe_lacks_is_named() {
    check_refused("", &[], &["`base`", "hint: "]);
    check_refused("layers = \"dus(1)\"\n", &[], &["`base`", "hint: "]);
    check_refused("layers = \"dus(1)\"\n[models]\n", &[], &["`base`"]);
    check_refused("base = \"../a\"\n", &[], &["`layers`", "hint: "]);
    check_refused("base = \"../a\"\nlayers = \"\"\n", &[], &["column 1"]);
    check_refused("base = \"../a\"\ndtype = \"float16\"\n", &["--norm", "x"], &["`layers`"]);
}

#[test]
fn models_are_known_by_name() {
    let text = "layers = \"x:0..4 + y:1..4\"\n[models]\nx = \"../a\"\ny = \"../b\"\n";
    for key in ["embeddings", "norm", "lm_head"] {
        let text = format!("{key} = \"z\"\n{text}");
        check_refused(&text, &[], &[key, "\"z\"", "x, y"]);
    }
    check_refused(&text.replace("y:1", "z:1"), &[], &["`z`"]);
    let text = "base = \"../a\"\nlayers = \"dus(1)\"\nnorm = \"a\"\n";
    check_refused(text, &[], &["norm", "\"a\"", "one base without a name"]);
}

#[test]
fn a_name_that_no_plan_can_say_is_refused() {
    for name in ["n", "a-b", "\"\"", "\"a b\"", "1st"] {
        let text = format!("layers = \"0..4\"\n[models]\n{name} = \"../a\"\n");
        check_refused(&text, &[], &[name.trim_matches('"')]);
    }
}

#[test]
fn paths_are_relative_to_the_recipe_and_flags_to_the_working_directory() {
    let dir = with_recipe("base = \"../a\"\nlayers = \"dus(1)\"\n");
    for (cwd, recipe) in
        [("", "recipes/recipe.toml"), ("recipes", "recipe.toml"), ("a", "../recipes/recipe.toml")]
    {
        let cwd = dir.path().join(cwd);
        let plan = run(dus(&cwd), &["plan", recipe, "--json"]).done().json();
        assert_eq!(plan["num_hidden_layers"], 6);
    }
    plan(dir.path(), &["--base", "../a"]).refused(&["../a", "does not exist"]);
    build(dir.path(), &["--base", "b"]).done();
    let manifest = raw::read_json(&dir.path().join("out/dus.json"));
    assert_eq!(manifest["models"][0]["path"], "../b");
}

/// Each flag against the same key of a recipe: what is built has the flag's value.
#[test]
fn flags_replace_keys() {
    let dir = with_recipe(
        "base = \"../a\"\nlayers = \"dus(1)\"\narchitecture = \"llama\"\ndtype = \"float16\"\n\
         max_shard_size = \"1MB\"\n",
    );
    let recipe = |flags: &[&str]| {
        build(dir.path(), flags).done();
        let out = dir.path().join("out");
        let config = raw::read_json(&out.join("config.json"));
        let manifest = raw::read_json(&out.join("dus.json"));
        (manifest["recipe"].clone(), config, weights::read(&out))
    };
    let (keys, config, tensors) = recipe(&[]);
    let expected = json!({
        "layers": "dus(1)", "architecture": "llama", "dtype": "float16", "max_shard_size": 1_000_000,
    });
    assert_eq!((keys, &config["model_type"]), (expected, &json!("llama")));
    assert!(tensors.values().all(|tensor| tensor.dtype == Dtype::F16));

    let (keys, config, tensors) = recipe(&["--layers", "0..4 + 0..4", "--dtype", "float32"]);
    assert_eq!((&keys["layers"], &keys["dtype"]), (&json!("0..4 + 0..4"), &json!("float32")));
    assert_eq!((&config["num_hidden_layers"], &config["dtype"]), (&json!(8), &json!("float32")));
    assert!(tensors.values().all(|tensor| tensor.dtype == Dtype::F32));

    let (keys, ..) = recipe(&["--max-shard-size", "2KiB"]);
    assert_eq!(keys["max_shard_size"], 2048);
    assert!(dir.path().join("out/model.safetensors.index.json").exists());

    let (_, _, tensors) = recipe(&["--base", "b", "--dtype", "bfloat16"]);
    let b = TinyModel { seed: 2, ..TinyModel::default() }.tensors_by_name();
    splice::assert_same(&tensors, &splice::expected(&b, &[0, 1, 2, 1, 2, 3], "model.layers"));
    for architecture in ["mamba", ""] {
        build(dir.path(), &["--architecture", architecture]).refused(&["architecture", "llama"]);
    }
}

#[test]
fn flags_replace_models_and_who_gives_what() {
    let dir = with_recipe(
        "layers = \"x:0..4 + y:1..4\"\nembeddings = \"y\"\nnorm = \"x\"\nlm_head = \"x\"\n\
         [models]\nx = \"../a\"\ny = \"../b\"\n",
    );
    let a = TinyModel { seed: 1, ..TinyModel::default() }.tensors_by_name();
    let b = TinyModel { seed: 2, ..TinyModel::default() }.tensors_by_name();
    let given = |flags: &[&str]| -> Vec<&str> {
        build(dir.path(), flags).done();
        let out = weights::read(&dir.path().join("out"));
        let by = |name: &str| match (out[name] == a[name], out[name] == b[name]) {
            (true, false) => "a",
            (false, true) => "b",
            _ => "?",
        };
        ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"].map(by).to_vec()
    };
    assert_eq!(given(&[]), ["b", "a", "a"]);
    assert_eq!(given(&["--embeddings", "x"]), ["a", "a", "a"]);
    assert_eq!(given(&["--norm", "y", "--lm-head", "y"]), ["b", "b", "b"]);
    assert_eq!(given(&["--model", "y=a"]), ["a", "a", "a"]);
    assert_eq!(given(&["--model", "x=b", "--model", "y=a"]), ["a", "b", "b"]);
    // A third model is the recipe's as well as if it stood there.
    assert_eq!(given(&["--model", "z=b", "--norm", "z"]), ["b", "b", "a"]);

    let dir = with_recipe("layers = \"x:0..4 + y:1..4\"\n[models]\nx = \"../a\"\ny = \"../b\"\n");
    build(dir.path(), &[]).done();
    let out = weights::read(&dir.path().join("out"));
    assert_eq!(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"]);
    assert_eq!(out["lm_head.weight"], b["lm_head.weight"]);
}

#[test]
fn a_model_and_flags_are_a_recipe() {
    let dir = with_recipe("base = \"../a\"\nlayers = \"dus(1)\"\n");
    let keys = |value: Value| {
        let Value::Object(mut plan) = value else { panic!("no object") };
        // The disk's free room may change between two calls.
        plan.remove("free_bytes");
        plan
    };
    let expected = keys(plan(dir.path(), &[]).done().json());
    for args in [
        &["a", "--layers", "dus(1)"][..],
        &["--base", "a", "--layers", "dus(1)"],
        &["b", "--base", "a", "--layers", "dus(1)"],
    ] {
        let said = run(dus(dir.path()), &[&["plan", "--json"], args].concat()).done();
        assert_eq!(keys(said.json()), expected);
    }
    run(dus(dir.path()), &["plan"]).refused(&["`base`", "hint: "]);
    run(dus(dir.path()), &["plan", "a"]).refused(&["`layers`", "hint: "]);
}

#[test]
fn a_recipe_is_known_by_its_name() {
    let dir = with_recipe("base = \"../a\"\nlayers = \"dus(1)\"\n");
    let recipe = dir.path().join("recipes/recipe.toml");
    fs::copy(&recipe, dir.path().join("recipes/LOUD.TOML")).unwrap();
    run(dus(dir.path()), &["plan", "recipes/LOUD.TOML"]).done();
    // A folder is a model, whatever it is called.
    fs::rename(dir.path().join("b"), dir.path().join("b.toml")).unwrap();
    run(dus(dir.path()), &["plan", "b.toml", "--layers", "dus(1)"]).done();
    fs::copy(&recipe, dir.path().join("recipes/recipe.txt")).unwrap();
    run(dus(dir.path()), &["plan", "recipes/recipe.txt"]).refused(&["recipes/recipe.txt"]);
    fs::write(&recipe, b"\xff\xfe").unwrap();
    plan(dir.path(), &[]).refused(&["recipe.toml"]);
}
