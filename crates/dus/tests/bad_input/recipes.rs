//! Plans and recipes that cannot be meant.

use std::fs;

use crate::case::{Case, PLAN};

/// Checks an error in a plan for a base of four layers: the column that it names, and more.
#[track_caller]
fn check(plan: &str, column: usize, expected: &[&str]) {
    let column = format!("column {column})");
    Case::new().plan(plan).refused(&[&[plan, &column, "^"], expected].concat());
}

#[test]
fn a_plan_out_of_range() {
    check("0..3 + 1..5", 8, &["1..5", "n = 4"]);
    check("0..4 + 4", 8, &["layer 4", "n = 4"]);
    check("n-5..n", 1, &["n-5", "n = 4"]);
    check("dus(3)", 5, &["dus(3)", "n = 4"]);
    check("dus(s=10)", 5, &["s=10", "n = 4"]);
    check("repeat(1, 5)", 8, &["repeat(1, 5)", "n = 4"]);
    check("0..4 + 99999999999999999999", 8, &["99999999999999999999"]);
}

#[test]
fn a_range_that_is_empty_or_reversed() {
    check("0..3 + 2..2", 8, &["2..2", "empty"]);
    check("n..n", 1, &["empty"]);
    check("0..3 + 3..1", 8, &["3..1", "backwards"]);
    check("n..0", 1, &["4..0", "backwards"]);
}

#[test]
fn a_plan_without_layers() {
    for plan in ["", "  "] {
        Case::new().plan(plan).refused(&["column 1)"]);
    }
}

#[test]
fn a_syntax_error_with_its_column() {
    check("0..3 + + 1..4", 8, &["found `+`"]);
    check("0..3 +", 7, &["end"]);
    check("0...3", 4, &["found"]);
    check("(0..3", 6, &["end"]);
    check("0..3 1..4", 6, &["found"]);
    check("0..4 * 0", 8, &["0"]);
    check("dsu(1)", 1, &["dsu"]);
    check("0..4{o_proj zero}", 13, &["`:`", "zero"]);
    check("0..4{o_proj: zreo}", 14, &["zreo"]);
    check("x:0..4", 1, &["`x`"]);
    // Columns count characters, not bytes.
    check("0..4 é", 6, &["é"]);
    check("dus(1){é: zero}", 8, &["é"]);
}

#[test]
fn a_pattern_that_matches_nothing() {
    check("0..4 + (1..3){o_prj: zero}", 15, &["`o_prj`"]);
    check("0..4{proj: zero}", 6, &["`proj`"]);
    check("0..4{self_attn.down_proj: scale 0.5}", 6, &["`self_attn.down_proj`"]);
    check("0..4{new o_proj: zero}", 10, &["`new o_proj`", "new"]);
}

#[track_caller]
fn check_recipe(text: &str, expected: &[&str]) {
    let case = Case::new();
    let recipe = case.dir().join("recipe.toml");
    fs::write(&recipe, text).unwrap();
    let recipe = recipe.display().to_string();
    case.args(&[&recipe]).refused(expected);
}

#[test]
fn an_unknown_recipe_key() {
    let text = format!("base = \"base\"\nlayers = \"{PLAN}\"\ndtyp = \"float16\"\n");
    check_recipe(&text, &["recipe.toml", "dtyp", "line 3"]);
    let text = format!("base = \"base\"\nlayers = \"{PLAN}\"\n[merge]\nmethod = \"linear\"\n");
    check_recipe(&text, &["recipe.toml", "merge"]);
}

#[test]
fn a_recipe_that_is_not_toml() {
    check_recipe("base = \"base\nlayers = 3\n", &["recipe.toml", "line 1"]);
    check_recipe("base = \"base\"\nbase = \"base\"\n", &["recipe.toml", "base", "line 2"]);
    check_recipe("base = 7\nlayers = \"dus(1)\"\n", &["recipe.toml", "base", "line 1"]);
}

#[test]
fn a_recipe_without_what_it_needs() {
    check_recipe("layers = \"dus(1)\"\n", &["`base`"]);
    check_recipe("base = \"base\"\n", &["`layers`"]);
    check_recipe(
        "base = \"base\"\nlayers = \"x:0..4\"\n[models]\nx = \"base\"\n",
        &["`base`", "[models]"],
    );
}

#[test]
fn a_value_that_a_key_cannot_have() {
    for (key, value) in [
        ("dtype", "int8"),
        ("architecture", "mamba"),
        ("max_shard_size", "big"),
        ("max_shard_size", "0"),
        ("norm", "x"),
    ] {
        let text = format!("base = \"base\"\nlayers = \"{PLAN}\"\n{key} = \"{value}\"\n");
        check_recipe(&text, &[key, &format!("{value:?}")]);
        let flag = format!("--{}", key.replace('_', "-"));
        Case::new().flags(&[&flag, value]).refused(&[key, &format!("{value:?}")]);
    }
}

#[test]
fn a_plan_in_a_recipe_is_located_too() {
    check_recipe("base = \"base\"\nlayers = \"0..3 + 1..5\"\n", &["1..5", "column 8"]);
    check_recipe(
        "base = \"base\"\nlayers = \"\"\"\n0..3\n  + 1..5\n\"\"\"\n",
        &["1..5", "column 5", "line 2"],
    );
}

#[test]
fn a_recipe_that_does_not_exist() {
    for spec in ["./nope.toml", "nope.toml", "nope/nope.toml", "./nope"] {
        Case::new().args(&[spec]).refused(&[spec, "does not exist"]);
    }
}

#[test]
fn models_that_are_not_alike() {
    let case = Case::new();
    testkit::TinyModel { intermediate_size: 20, ..testkit::TinyModel::default() }
        .write(&case.dir().join("other"));
    let case =
        case.args(&["--model", "x=base", "--model", "y=other", "--layers", "x:0..3 + y:1..4"]);
    case.refused(&["_proj.weight", "24", "20", " x", " y"]);
}

#[test]
fn layers_made_of_several_are_refused_by_number() {
    Case::new().plan("0..3 + mix(0.5*2, 0.5*3)").refused(&["layer 3", "mix"]);
}
