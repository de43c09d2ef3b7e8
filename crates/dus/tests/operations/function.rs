//! Whether a plan preserves the function, and what no build makes yet.

use std::fs;

use serde_json::Value;
use testkit::{Dtype, Family, Tensor, TinyModel};

use crate::bases;
use crate::workshop::{PLAN, Workshop};

#[track_caller]
fn check(model: &TinyModel, plan: &str, flags: &[&str], expected: impl Into<Value>) {
    let workshop = Workshop::with(model);
    let args = [&["base", "--layers", plan], flags].concat();
    let expected = expected.into();
    assert_eq!(workshop.plan(&args)["function_preserving"], expected, "{plan}");
    workshop.build(&args);
    let manifest = workshop.json_of("dus.json");
    assert_eq!(manifest.get("function_preserving").unwrap_or(&Value::Null), &expected, "{plan}");
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    assert_eq!(card.contains("preserves the base's function"), expected == true, "{card}");
}

const PRO: &str = "insert(0..n, every=2, copy{o_proj: zero, down_proj: zero})";

#[test]
fn is_preserved_by_silent_layers_alone() {
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        let model = TinyModel::of(family);
        check(&model, PRO, &[], true);
        check(&model, "0..n", &[], true);
        check(&model, "dus(1)", &[], false);
        check(&model, "0..n + 3{o_proj: zero, down_proj: zero}", &[], true);
        check(&model, "0..3 + (1..3){*: zero} + 3", &[], true);
        check(&model, "0..n + 3{o_proj: zero}", &[], false);
        check(&model, "0..n + 3{o_proj: zero, down_proj: scale 0}", &[], false);
        check(&model, "0..n + 3{q_proj: zero, up_proj: zero}", &[], false);
        check(&model, "0..2{o_proj: scale 0.5} + 2..n", &[], false);
        check(&model, "0..2{o_proj: zero, down_proj: zero} + 2..n", &[], false);
        check(&model, "0..3", &[], false);
        check(&model, "0 + 2 + 1 + 3", &[], false);
        check(&model, "dus(1){new o_proj: zero, new down_proj: zero}", &[], true);
    }
}

/// A cast that rounds is a change; one to a wider type is none.
#[test]
fn is_preserved_by_wider_types() {
    check(&TinyModel::default(), PRO, &["--dtype", "float32"], true);
    check(&TinyModel::default(), PRO, &["--dtype", "bfloat16"], true);
    check(&TinyModel::default(), PRO, &["--dtype", "float16"], false);
}

#[test]
fn of_an_unknown_family_is_not_known() {
    let silent = "insert(0..n, every=2, copy{c_proj: zero})";
    for plan in [silent, "dus(1)", "0..n"] {
        check(&TinyModel::of(Family::Gpt2), plan, &[], Value::Null);
    }
}

/// A zeroed module whose bias is left is not silent.
#[test]
fn needs_biases_to_be_zero_too() {
    let model = TinyModel::of(Family::Llama);
    let mut tensors = model.tensors();
    for layer in 0..4 {
        let name = format!("model.layers.{layer}.self_attn.o_proj.bias");
        tensors.push((name.clone(), Tensor::random(&name, Dtype::BF16, &[16], 1.0)));
    }
    let workshop = Workshop::new();
    bases::write(&workshop.path("base"), &model.config().into(), &tensors);
    for (ops, expected) in [
        ("o_proj: zero, down_proj: zero", true),
        ("o_proj.weight: zero, down_proj: zero", false),
        ("o_proj.*: zero, mlp.*: zero", true),
    ] {
        let plan = workshop.plan(&["base", "--layers", &format!("0..4 + 3{{{ops}}}")]);
        assert_eq!(plan["function_preserving"], expected, "{ops}");
    }
}

/// `plan` draws what a build cannot make yet, and ends with 2 as the build would.
#[test]
fn made_layers_are_drawn_and_not_built() {
    let workshop = Workshop::with(&TinyModel::default());
    for plan in ["0..3 + mix(0.5*2, 0.5*1) + 3", "0..3 + slerp(2, 1, 0.5) + 3"] {
        workshop.refused(&["base", "--layers", plan], &["mix", "slerp", "layer 3"], true);
        let run = workshop.dus(&["plan", "base", "--layers", plan]);
        assert_eq!(run.code, 2);
        assert!(run.stdout.contains("5 (1 new)"), "{}", run.stdout);
        let drawn = workshop.dus(&["plan", "base", "--layers", plan, "--json"]).json(2);
        assert_eq!(drawn["num_hidden_layers"], 5);
        let obstacle = drawn["obstacles"][0].as_str().unwrap();
        assert!(obstacle.contains("layer 3"), "{obstacle}");
    }
}

#[test]
fn mergekit_recipes_are_refused_by_name() {
    let yaml = "slices:\n- sources:\n  - model: base\n    layer_range: [0, 4]\n\
                merge_method: passthrough\ndtype: bfloat16\n";
    let workshop = Workshop::with(&TinyModel::default());
    for name in ["r.yml", "r.yaml", "r.YAML"] {
        workshop.write(name, yaml);
        workshop.refused(&[name], &[name, "mergekit"], true);
        workshop.refused(&[name, "--layers", PLAN], &[name, "mergekit"], true);
    }
    workshop.write("r.toml", "base = \"base\"\nlayers = \"dus(1)\"\nmerge_method = \"slerp\"\n");
    workshop.refused(&["r.toml"], &["r.toml", "merge_method"], true);
}
