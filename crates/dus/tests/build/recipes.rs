//! What is built: a recipe, or flags, or a recipe with flags that replace its keys.

use std::fs;
use std::process::Command;

use testkit::{Dtype, TinyModel, splice};

use crate::workshop::{LAYERS, PLAN, Run, Workshop};

/// A folder with two bases, `base` and `recipes/base`, and the folder `elsewhere`.
fn two_bases() -> Workshop {
    let workshop = Workshop::with(&TinyModel::default());
    TinyModel { seed: 1, ..TinyModel::default() }.write(&workshop.path("recipes/base"));
    fs::create_dir(workshop.path("elsewhere")).unwrap();
    workshop
}

fn dus_in(workshop: &Workshop, dir: &str, args: &[&str]) -> Run {
    let mut dus = Command::new(env!("CARGO_BIN_EXE_dus"));
    dus.args(args).current_dir(workshop.path(dir));
    workshop.run(dus)
}

/// Runs `dus build ARGS` in the folder `dir` where the recipe is `recipes/r.toml`, and checks that
/// `out` there has the given layers of the base with that seed.
#[track_caller]
fn check(recipe: &str, dir: &str, args: &[&str], seed: u64, layers: &[usize]) -> Workshop {
    let workshop = two_bases();
    workshop.write("recipes/r.toml", recipe);
    let run = dus_in(&workshop, dir, &[&["build"], args, &["-o", "out"]].concat());
    assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
    let source = TinyModel { seed, ..TinyModel::default() }.tensors_by_name();
    let built = testkit::weights::read(&workshop.path(dir).join("out"));
    splice::assert_same(&built, &splice::expected(&source, layers, "model.layers"));
    workshop
}

#[test]
fn paths_in_a_recipe_are_relative_to_its_folder() {
    let recipe = "base = \"base\"\nlayers = \"0..3 + 1..4\"\n";
    check(recipe, "", &["recipes/r.toml"], 1, &LAYERS);
    check(recipe, "recipes", &["r.toml"], 1, &LAYERS);
    check(recipe, "elsewhere", &["../recipes/r.toml"], 1, &LAYERS);
    check(&recipe.replace("base\"", "./base\""), "", &["recipes/r.toml"], 1, &LAYERS);
    check(&recipe.replace("\"base\"", "\"../base\""), "recipes", &["r.toml"], 0, &LAYERS);
    check(
        &recipe.replace("\"base\"", "\"../base\""),
        "elsewhere",
        &["../recipes/r.toml"],
        0,
        &LAYERS,
    );
}

#[test]
fn paths_of_flags_are_relative_to_the_working_directory() {
    let recipe = "base = \"base\"\nlayers = \"0..3 + 1..4\"\n";
    check(recipe, "", &["recipes/r.toml", "--base", "base"], 0, &LAYERS);
    check(recipe, "elsewhere", &["../recipes/r.toml", "--base", "../base"], 0, &LAYERS);
    check(recipe, "recipes", &["r.toml", "--base", "./base"], 1, &LAYERS);
}

#[test]
fn flags_replace_keys() {
    let recipe = "base = \"missing\"\nlayers = \"dus(1)\"\ndtype = \"float16\"\n\
                  max_shard_size = 2000\n";
    let workshop = check(
        recipe,
        "",
        &["recipes/r.toml", "--base", "base", "--layers", "3 + 2", "--dtype", "bfloat16"],
        0,
        &[3, 2],
    );
    let recipe = &workshop.json_of("dus.json")["recipe"];
    assert_eq!(recipe["layers"], "3 + 2");
    assert_eq!(recipe["dtype"], "bfloat16");
    assert_eq!(recipe["max_shard_size"], 2000);
    assert!(workshop.path("out").join(testkit::weights::INDEX).exists());
}

/// Every key stands in a recipe or is a flag, to one effect.
#[test]
fn everything_is_a_key_and_a_flag() {
    let keys = [
        ("base", "base"),
        ("layers", PLAN),
        ("architecture", "llama"),
        ("dtype", "float32"),
        ("max_shard_size", "6KB"),
    ];
    let lines: Vec<String> =
        keys.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    let flags: Vec<String> = keys
        .iter()
        .flat_map(|(key, value)| [format!("--{}", key.replace('_', "-")), (*value).to_owned()])
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let workshop = Workshop::with(&TinyModel::default());
    workshop.write("r.toml", lines.concat());
    let positional = [&["base"], &flags[2..]].concat();
    let mut first = None;
    for args in [&["r.toml"][..], &flags, &positional] {
        workshop.build(args);
        let config = fs::read_to_string(workshop.path("out/config.json")).unwrap();
        let manifest = fs::read_to_string(workshop.path("out/dus.json")).unwrap();
        let found = (workshop.built(), config, manifest);
        assert!(found.0.values().all(|tensor| tensor.dtype == Dtype::F32));
        assert_eq!(first.get_or_insert(found.clone()), &found);
    }
    assert_eq!(workshop.json_of("config.json")["model_type"], "llama");
}

#[test]
fn a_size_is_a_number_or_a_text() {
    for (size, bytes) in [("20000", 20_000), ("\"20KB\"", 20_000), ("\"20 KiB\"", 20_480)] {
        let recipe =
            format!("base = \"base\"\nlayers = \"0..3 + 1..4\"\nmax_shard_size = {size}\n");
        let workshop = check(&recipe, "", &["recipes/r.toml"], 1, &LAYERS);
        assert_eq!(workshop.json_of("dus.json")["recipe"]["max_shard_size"], bytes);
    }
}

/// Several lines, comments, and an output that lies in folders that do not exist yet.
#[test]
fn a_plan_may_take_several_lines() {
    let recipe = "# SOLAR's\nbase = \"base\"\nlayers = \"\"\"\n  0..3\n  + 1..4  \n\"\"\"\n";
    check(recipe, "", &["recipes/r.toml"], 1, &LAYERS);
    let workshop = two_bases();
    workshop.write("recipes/r.toml", recipe);
    let run = workshop.dus(&["build", "recipes/r.toml", "-o", "new/folders/out"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    workshop.verified(&["new/folders/out"]);
}

/// What a plan says without `-o` is what a build makes.
#[test]
fn a_plan_foretells_the_build() {
    let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    for flags in [&[][..], &["--shard-layout", "source"], &["--dtype", "float32"]] {
        let args = [&["base", "--layers", "dus(1)", "--max-shard-size", "9KB"], flags].concat();
        let plan = workshop.plan(&args);
        let summary = workshop.build(&args);
        for key in ["num_hidden_layers", "num_parameters", "num_tensors", "bytes", "notes"] {
            assert_eq!(plan[key], summary[key], "{key}");
        }
        let shards = plan["shards"].as_array().unwrap();
        assert_eq!(summary["num_shards"], shards.len());
        for shard in shards {
            let path = workshop.path("out").join(shard["name"].as_str().unwrap());
            assert_eq!(shard["bytes"], path.metadata().unwrap().len());
        }
        assert_eq!(plan["layers"], workshop.json_of("dus.json")["layers"]);
        assert_eq!(plan["unused_layers"], serde_json::json!([]));
        assert_eq!(plan["plan"], "0..3 + 1..4");
    }
}

#[test]
fn without_a_base_or_a_plan_nothing_is_built() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.refused(&["base"], &["layers"], true);
    workshop.refused(&["--layers", PLAN], &["base"], true);
}
