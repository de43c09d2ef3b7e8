//! Models that cannot be one: each refusal names what differs.

use serde_json::json;
use testkit::{Family, TinyModel, splice};

use crate::workshop::Workshop;

/// Checks that a plan of `x`, the default model, and `e` is refused, naming all of `expected`.
#[track_caller]
fn check(e: &TinyModel, expected: &[&str]) {
    check_with(&[], e, expected);
}

/// The same with more flags.
#[track_caller]
fn check_with(flags: &[&str], e: &TinyModel, expected: &[&str]) {
    let workshop = Workshop::with(&TinyModel::default());
    e.write(&workshop.path("e"));
    for plan in ["x:0..2 + e:2..4", "e:0..2 + x:2..4"] {
        let models = ["--model", "x=base", "--model", "e=e", "--layers", plan];
        workshop.refused(&[&models, flags].concat(), expected, true);
    }
}

/// All that stands outside the layers comes from one model.
const ONE_GIVER: [&str; 6] = ["--embeddings", "x", "--norm", "x", "--lm-head", "x"];

#[test]
fn of_shapes_are_refused() {
    let model = TinyModel { seed: 1, ..TinyModel::default() };
    check(
        &TinyModel { intermediate_size: 32, ..model.clone() },
        &["model.layers.", "mlp.", "32", "24"],
    );
    check(&TinyModel { hidden_size: 32, ..model.clone() }, &["32", "16"]);
    check(&TinyModel { vocab_size: 41, ..model.clone() }, &["41", "40"]);
    check(&TinyModel { num_key_value_heads: 4, ..model.clone() }, &["k_proj"]);
    check(&TinyModel { num_attention_heads: 8, ..model }, &["self_attn.", "32", "16"]);
}

/// Of the same shapes, but not of the same arithmetic.
#[test]
fn of_what_no_shape_shows_are_refused() {
    let model = TinyModel { seed: 1, ..TinyModel::default() };
    let with = |key, value| TinyModel { extra_config: vec![(key, value)], ..model.clone() };
    check(&TinyModel { family: Family::Llama, ..model.clone() }, &["model_type"]);
    check(&with("hidden_act", json!("gelu")), &["hidden_act"]);
    check(
        &TinyModel { num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, ..model.clone() },
        &["heads"],
    );
    check(&TinyModel { tie_word_embeddings: true, ..model.clone() }, &["tie_word_embeddings"]);
}

#[test]
fn of_names_are_refused() {
    check_with(&ONE_GIVER, &TinyModel::of(Family::Gpt2), &["model.layers", "`h`"]);
}

/// Where no table says which tensors are embeddings, norm and head, one model gives them all.
#[test]
fn of_an_unknown_family_one_model_gives_the_rest() {
    let workshop = Workshop::new();
    let [x, e] = [0, 1].map(|seed| TinyModel { seed, ..TinyModel::of(Family::Gpt2) });
    x.write(&workshop.path("x"));
    e.write(&workshop.path("e"));
    let args = ["--model", "x=x", "--model", "e=e", "--layers", "x:0..2 + e:2..4"];
    workshop.refused(&args, &["embeddings", "norm", "lm_head"], true);
    workshop.build(&[&args[..], &ONE_GIVER].concat());
    let mut expected = x.tensors_by_name();
    for (name, tensor) in e.tensors() {
        if name.starts_with("h.2.") || name.starts_with("h.3.") {
            expected.insert(name, tensor);
        }
    }
    splice::assert_same(&workshop.built(), &expected);
    workshop.verified(&["out"]);
}

/// What is a number of the whole model is said, and the giver of the embeddings decides.
#[test]
fn of_less_are_said() {
    let workshop = Workshop::with(&TinyModel::default());
    let e = TinyModel { extra_config: vec![("rms_norm_eps", json!(1e-6))], ..TinyModel::default() };
    e.write(&workshop.path("e"));
    let args = ["--model", "x=base", "--model", "e=e", "--layers", "e:0..2 + x:2..4"];
    let summary = workshop.build(&args);
    let notes = summary["notes"].to_string();
    assert!(notes.contains("rms_norm_eps"), "{notes}");
    assert_eq!(workshop.json_of("config.json")["rms_norm_eps"], 1e-6);
}

#[test]
fn names_that_no_model_has_are_refused() {
    let workshop = Workshop::with(&TinyModel::default());
    let models = ["--model", "x=base", "--model", "e=base"];
    let layers = ["--layers", "x:0..2 + e:2..4"];
    for (flags, expected) in [
        (["--layers", "x:0..2 + y:2..4"], &["y"][..]),
        (["--layers", "x:0..2 + e:2..5"], &["5", "4"]),
        (["--embeddings", "y"], &["embeddings", "y", "x, e"]),
        (["--norm", "y"], &["norm", "y"]),
        (["--lm-head", "y"], &["lm_head", "y"]),
        (["--embeddings", "mix(0.5*x, 0.5*e)"], &["embeddings", "mix"]),
        (["--base", "base"], &["base", "models"]),
        (["--model", "z=nowhere/at/all"], &["nowhere/at/all"]),
    ] {
        let mut args = [&models[..], &flags].concat();
        if flags[0] != "--layers" {
            args.extend(layers);
        }
        workshop.refused(&args, expected, true);
    }
    workshop.refused(&["base", "--layers", "0..4", "--norm", "x"], &["norm", "x"], true);
    workshop.refused(&["base", "--layers", "x:0..4"], &["x"], true);
}
