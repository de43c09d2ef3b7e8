//! What stands once a layer, or goes by a layer's number.

use serde_json::{Value, json};
use testkit::Family;

use crate::workshop::{LAYERS, PLAN, Workshop};
use crate::{built_text, with_keys};

/// The config of the model that `plan` makes of a model with `keys`.
#[track_caller]
fn built(family: Family, keys: &Value, plan: &str) -> Value {
    let workshop = with_keys(family, keys);
    serde_json::from_str(&built_text(&workshop, &["--layers", plan])).unwrap()
}

#[track_caller]
fn refused(family: Family, keys: &Value, plan: &str, expected: &[&str]) {
    with_keys(family, keys).refused(&["base", "--layers", plan], expected, true);
}

/// Lists with an entry a layer follow the plan, entry by entry.
#[test]
fn per_layer_lists_are_reordered() {
    for (key, entries) in [
        ("layer_types", json!(["full_attention", "sliding_attention", "linear", "full_attention"])),
        ("mlp_layer_types", json!(["dense", "sparse", "sparse", "dense"])),
        ("no_rope_layers", json!([1, 0, 1, 1])),
        ("num_key_value_heads_per_layer", json!([1, 2, 4, 8])),
        ("block_configs", json!([{ "a": 1 }, { "a": 2e-5 }, { "a": [3] }, { "a": null }])),
    ] {
        for (plan, layers) in [
            (PLAN, &LAYERS[..]),
            ("3 + 2 + 1 + 0", &[3, 2, 1, 0]),
            ("stack(2)", &[0, 1, 2, 3, 0, 1, 2, 3]),
            ("1", &[1]),
        ] {
            let config = built(Family::Gpt2, &json!({ key: entries }), plan);
            let expected: Vec<&Value> = layers.iter().map(|&layer| &entries[layer]).collect();
            assert_eq!(config[key], json!(expected), "{key} by {plan}");
        }
    }
}

/// Numbers of layers become the numbers of all their copies.
#[test]
fn lists_of_layer_numbers_are_renumbered() {
    for (numbers, expected) in
        [(json!([1]), json!([1, 3])), (json!([0, 3]), json!([0, 5])), (json!([]), json!([]))]
    {
        let config = built(Family::Gpt2, &json!({ "mlp_only_layers": numbers }), PLAN);
        assert_eq!(config["mlp_only_layers"], expected);
    }
}

/// Only a list that is in no table, and is as long as the base is deep, could be meant by layer.
#[test]
fn an_unknown_list_of_the_bases_length_is_refused_by_its_key() {
    for list in [json!([1, 2, 3, 4]), json!(["a", "b", "c", "d"]), json!([[1], [2], [3], [4]])] {
        refused(Family::Mistral, &json!({ "mystery_scales": list }), PLAN, &["mystery_scales"]);
    }
    refused(
        Family::Mistral,
        &json!({ "nested": { "mystery_scales": [1, 2, 3, 4] } }),
        PLAN,
        &["nested.mystery_scales"],
    );
    // The identity plan needs no answer; neither do other lengths, nor lists that are known.
    let of_any_length = json!({
        "mystery_scales": [1, 2, 3],
        "mystery_names": ["a", "b", "c", "d", "e"],
        "eos_token_id": [2, 3, 4, 5],
        "nested": { "deeper": [1, 2, 3, 4, 5] },
    });
    let config = built(Family::Mistral, &of_any_length, PLAN);
    for (key, value) in of_any_length.as_object().unwrap() {
        assert_eq!(config[key], *value);
    }
    let kept = json!({ "mystery_scales": [1, 2, 3, 4] });
    assert_eq!(built(Family::Mistral, &kept, "0..n")["mystery_scales"], kept["mystery_scales"]);
}

/// Whether layer `layer` has a window, as transformers decides it for Qwen2.
fn has_window(config: &Value, layer: usize) -> bool {
    config["use_sliding_window"] == true
        && layer as u64 >= config["max_window_layers"].as_u64().unwrap()
}

/// Every layer keeps its kind under its new number, or the plan is refused by the key.
#[test]
fn of_qwen2_windows_stay_with_their_layers() {
    for (bound, plan, layers) in [
        (4, PLAN, &LAYERS[..]),
        (4, "stack(3)", &[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]),
        (0, PLAN, &LAYERS),
        (2, "0 + 0 + 1 + 2 + 3 + 3", &[0, 0, 1, 2, 3, 3]),
        (2, "0..n + 3", &[0, 1, 2, 3, 3]),
        (2, "2..n", &[2, 3]),
    ] {
        for used in [true, false] {
            let keys = json!({
                "use_sliding_window": used,
                "sliding_window": 8,
                "max_window_layers": bound,
                "layer_types": null,
            });
            let base = with_keys(Family::Qwen2, &keys);
            let base = testkit::raw::read_json(&base.path("base/config.json"));
            let config = built(Family::Qwen2, &keys, plan);
            assert_eq!(config["use_sliding_window"], used);
            for (j, &layer) in layers.iter().enumerate() {
                assert_eq!(has_window(&config, j), has_window(&base, layer), "{plan}: {config}");
            }
        }
    }
    let keys = json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2, "layer_types": null });
    refused(Family::Qwen2, &keys, PLAN, &["max_window_layers"]);
}

/// As Qwen2's configs come: no window is used, and the bound is the depth. It must not lie below it.
#[test]
fn of_qwen2_without_windows_the_bound_is_the_new_depth() {
    for family in [Family::Qwen2, Family::Qwen3] {
        let workshop = with_keys(family, &json!({}));
        let config: Value =
            serde_json::from_str(&built_text(&workshop, &["--layers", PLAN])).unwrap();
        assert_eq!(config["max_window_layers"], 6);
        assert_eq!(config["layer_types"], json!(vec!["full_attention"; 6]));
    }
}

/// `MiniCPM` divides its residual scale by the root of the depth: the quotient stays.
#[test]
fn a_scale_by_depth_is_rescaled() {
    let keys = json!({ "model_type": "minicpm", "scale_depth": 1.4 });
    let config = built(Family::Gpt2, &keys, PLAN);
    let scale = config["scale_depth"].as_f64().unwrap();
    assert!((scale / 6_f64.sqrt() - 1.4 / 4_f64.sqrt()).abs() < 1e-12, "{scale}");
}

/// What cannot be made right is refused by its value, and not by being there.
#[test]
fn arithmetic_by_depth_is_refused() {
    for (key, value, off) in [
        ("scale_attn_by_inverse_layer_idx", json!(true), json!(false)),
        ("hidden_size_per_layer_input", json!(256), json!(0)),
        ("num_kv_shared_layers", json!(2), json!(0)),
    ] {
        refused(Family::Gpt2, &json!({ key: value }), PLAN, &[key]);
        assert_eq!(built(Family::Gpt2, &json!({ key: off }), PLAN)[key], off);
    }
}

/// Older families' names of the depth, and two that must agree.
#[test]
fn the_depth_has_several_names() {
    let keys = json!({ "num_hidden_layers": 4 });
    let config = built(Family::Gpt2, &keys, PLAN);
    assert_eq!((&config["n_layer"], &config["num_hidden_layers"]), (&json!(6), &json!(6)));
    refused(
        Family::Gpt2,
        &json!({ "num_hidden_layers": 5 }),
        PLAN,
        &["n_layer", "num_hidden_layers"],
    );
    let nested = json!({ "text_config": { "num_hidden_layers": 4 } });
    refused(Family::Mistral, &nested, PLAN, &["text_config"]);
}

/// The list is as long as the new model is deep, so that a build can be built on.
#[test]
fn lists_stay_right_when_built_twice() {
    let keys = json!({ "layer_types": ["a", "b", "c", "d"] });
    let workshop = with_keys(Family::Gpt2, &keys);
    built_text(&workshop, &["--layers", PLAN]);
    std::fs::rename(workshop.path("out"), workshop.path("first")).unwrap();
    let second: &Workshop = &workshop;
    second.build(&["first", "--layers", "dus(3)"]);
    let config = second.json_of("config.json");
    assert_eq!(config["layer_types"], json!(["a", "b", "c", "b", "c", "d"]));
    second.build(&["first", "--layers", "5 + 0"]);
    assert_eq!(second.json_of("config.json")["layer_types"], json!(["d", "a"]));
}
