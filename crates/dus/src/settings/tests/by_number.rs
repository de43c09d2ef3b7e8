//! Lists by layer, and kinds by layer number.

use super::*;

#[test]
fn a_bound_of_windows_moves_with_the_layers() {
    let qwen = |uses: bool, bound: usize| {
        format!(
            r#"{{"max_window_layers": {bound}, "model_type": "qwen2", "num_hidden_layers": 28,
            "sliding_window": 131072, "use_sliding_window": {uses}}}"#
        )
    };
    for uses in [false, true] {
        let layers = "\"num_hidden_layers\": 28";
        let edits = [
            ("\"max_window_layers\": 28", "\"max_window_layers\": 40"),
            (layers, "\"num_hidden_layers\": 40"),
        ];
        check(&qwen(uses, 28), &dus(28, 8), &edits);
        // windows from layer 21 on, in the second copy only
        let edits = [("window_layers\": 21", "window_layers\": 33"), edits[1]];
        check(&qwen(uses, 21), &dus(28, 8), &edits);
    }
    // two stretches with windows: no bound says that
    let stacked = copied((0..28).chain(0..28));
    check(
        &qwen(false, 21),
        &stacked,
        &[("\"num_hidden_layers\": 28", "\"num_hidden_layers\": 56")],
    );
    check_error(
        &qwen(true, 21),
        &stacked,
        "`max_window_layers` goes by the layer's number: new layer 28 would be sliding_attention, \
         but layer 0, which it is made from, is full_attention",
    );
    // the family's default bound is 28
    let unstated = r#"{"model_type": "qwen2", "num_hidden_layers": 24, "sliding_window": 4096, "use_sliding_window": true}"#;
    let built = build(unstated, &dus(24, 4), &Changes::default()).unwrap();
    assert_eq!(built.config.get("max_window_layers"), Some(40.into()));
}

#[test]
fn layer_types_are_reordered() {
    let qwen3 = r#"{
  "layer_types": [
    "full_attention",
    "sliding_attention",
    "full_attention"
  ],
  "max_window_layers": 3,
  "model_type": "qwen3",
  "num_hidden_layers": 3,
  "use_sliding_window": false
}"#;
    check(
        qwen3,
        &copied([0, 1, 1, 2]),
        &[
            (
                "    \"sliding_attention\",\n",
                "    \"sliding_attention\",\n    \"sliding_attention\",\n",
            ),
            ("window_layers\": 3", "window_layers\": 4"),
            ("hidden_layers\": 3", "hidden_layers\": 4"),
        ],
    );
    check_error(
        &qwen3.replace("hidden_layers\": 3", "hidden_layers\": 4"),
        &copied([0, 1, 1, 2]),
        "`layer_types` has 3 entries, expected 4, one a layer",
    );
    let made = vec![vec![(0, 0), (0, 2)], vec![(0, 0), (0, 1)]];
    check_error(
        qwen3,
        &made,
        "`layer_types` differs between the layers that new layer 1 is made of",
    );
}

#[test]
fn lists_are_known_by_name_not_by_length() {
    let config = r#"{"num_hidden_layers": 2, "eos_token_id": [1, 2], "time_step_limit": [0.0, 1e3],
        "rope_scaling": {"long_factor": [1.0, 2.0], "short_factor": [1.0, 1.0]},
        "attention_layers": null, "no_rope_layers": []}"#;
    check(config, &copied([0, 0, 1]), &[("_layers\": 2", "_layers\": 3")]);
    check_error(
        r#"{"num_hidden_layers": 2, "head_scales": [1, 2]}"#,
        &copied([0, 0, 1]),
        "`head_scales` has 2 entries, as many as the base has layers, and is not known to go by layer \
         or not",
    );
    check_error(
        r#"{"num_hidden_layers": 2, "rope_scaling": {"by_head": [1, 2]}}"#,
        &copied([0, 0, 1]),
        "`rope_scaling.by_head` has 2 entries, as many as the base has layers, and is not known to go \
         by layer or not",
    );
    check(r#"{"num_hidden_layers": 2, "head_scales": [1, 2]}"#, &copied([0, 1]), &[]);
}

#[test]
fn lists_of_layer_numbers_follow_the_layers() {
    let config = r#"{"attn_layer_indices": [1, 3], "hybrid_override_pattern": "M*M*",
        "linear_attn_config": {"kda_layers": [1, 3], "full_attn_layers": [2, 4]}, "moe_layers_enum": "2,3", "num_hidden_layers": 4}"#;
    let built = build(config, &copied([0, 1, 2, 1, 2, 3]), &Changes::default()).unwrap();
    let get = |key| built.config.get(key).unwrap();
    assert_eq!(get("attn_layer_indices"), serde_json::json!([1, 3, 5]));
    assert_eq!(get("hybrid_override_pattern"), "M*M*M*");
    assert_eq!(get("moe_layers_enum"), "2,4,5");
    assert_eq!(
        get("linear_attn_config"),
        serde_json::json!({"kda_layers": [1, 3, 5], "full_attn_layers": [2, 4, 6]})
    );
    check_error(
        r#"{"num_hidden_layers": 4, "mlp_only_layers": [4]}"#,
        &dus(4, 1),
        "`mlp_only_layers`: expected numbers of layers that the model has, found 4",
    );
}

#[test]
fn exceptions_by_layer_follow_the_layers() {
    let config =
        r#"{"num_hidden_layers": 12, "per_layer_config": {"02": {"eps": 1e-05}, "11": {}}}"#;
    let built = build(config, &dus(12, 2), &Changes::default()).unwrap();
    let exceptions = built.config.object("per_layer_config").unwrap();
    assert_eq!(exceptions.keys().collect::<Vec<_>>(), ["02", "10", "19"]);
    assert_eq!(exceptions.text("10"), Some(r#"{"eps": 1e-05}"#));
    check(config, &copied(0..12), &[]);
    check_error(
        r#"{"num_hidden_layers": 2, "scales": {"0": 1, "1": 2}}"#,
        &copied([0, 0, 1]),
        "`scales` has 2 entries, as many as the base has layers, and is not known to go by layer or \
         not",
    );
}

#[test]
fn entries_for_prediction_layers_stay_behind_the_last() {
    let config = r#"{"layer_types": ["a", "b", "mtp"], "num_hidden_layers": 2, "num_nextn_predict_layers": 1}"#;
    let built = build(config, &copied([0, 0, 1]), &Changes::default()).unwrap();
    assert_eq!(built.config.get("layer_types"), Some(serde_json::json!(["a", "a", "b", "mtp"])));
    assert_eq!(built.config.get("num_nextn_predict_layers"), Some(1.into()));
}

#[test]
fn gemma_2_alternates_by_number() {
    let gemma = r#"{"model_type": "gemma2", "num_hidden_layers": 26, "sliding_window": 4096}"#;
    check(gemma, &dus(26, 4), &[("26", "44")]);
    check_error(
        gemma,
        &copied((0..14).chain(5..26)),
        "`sliding_window` goes by the layer's number: new layer 14 would be sliding_attention, but \
         layer 5, which it is made from, is full_attention",
    );
}

#[test]
fn a_list_is_the_truth_beside_an_interval() {
    let config = |list: &str| {
        format!(
            r#"{{"full_attention_interval": 2, {list}"model_type": "qwen3_next", "num_hidden_layers": 4}}"#
        )
    };
    let plan = copied([0, 1, 1, 2, 3]);
    let listed = r#""layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"], "#;
    let built = build(&config(listed), &plan, &Changes::default()).unwrap();
    assert_eq!(built.config.get("full_attention_interval"), Some(2.into()));
    assert!(
        built.notes[0].starts_with("`full_attention_interval` no longer describes `layer_types`")
    );
    check_error(
        &config(""),
        &plan,
        "`full_attention_interval` goes by the layer's number: new layer 2 would be linear_attention, \
         but layer 1, which it is made from, is full_attention",
    );
    check(&config(""), &copied([0, 1, 0, 1, 2, 3]), &[("_layers\": 4", "_layers\": 6")]);
}

#[test]
fn dense_layers_before_experts_stay_the_first() {
    let deepseek = |experts: &str| {
        format!(
            r#"{{"first_k_dense_replace": 3, "model_type": "deepseek_v3", "moe_layer_freq": 1,
            "n_routed_experts": {experts}, "num_hidden_layers": 61, "num_nextn_predict_layers": 1}}"#
        )
    };
    check(&deepseek("256"), &copied((0..40).chain(20..61)), &[("_layers\": 61", "_layers\": 81")]);
    let twice = copied((0..3).chain(0..61));
    let edits = [("\"first_k_dense_replace\": 3", "\"first_k_dense_replace\": 6"), ("61", "64")];
    check(&deepseek("256"), &twice, &edits);
    let stacked = copied((0..61).chain(0..61));
    check_error(
        &deepseek("256"),
        &stacked,
        "`first_k_dense_replace` goes by the layer's number: new layer 61 would be a layer with experts, \
         but layer 0, which it is made from, is a dense layer",
    );
    check(&deepseek("null"), &stacked, &[("_layers\": 61", "_layers\": 122")]);
}

#[test]
fn sparse_steps_and_exceptions_are_read_together() {
    let moe = r#"{"decoder_sparse_step": 1, "mlp_only_layers": [0], "model_type": "qwen3_moe", "num_experts": 8, "num_hidden_layers": 4}"#;
    let edits = [("[0]", "[\n    0,\n    4\n  ]"), ("_layers\": 4", "_layers\": 8")];
    check(moe, &copied((0..4).chain(0..4)), &edits);
    check_error(
        &moe.replace("step\": 1", "step\": 2"),
        &copied([0, 1, 1, 2, 3]),
        "`decoder_sparse_step` goes by the layer's number: new layer 2 would be a dense layer, but layer \
         1, which it is made from, is a layer with experts",
    );
}

#[test]
fn ends_and_periods_of_experts() {
    let ernie = r#"{"moe_layer_end_index": 3, "moe_layer_interval": 1, "moe_layer_start_index": 1, "num_hidden_layers": 4}"#;
    check(ernie, &dus(4, 1), &[("index\": 3", "index\": 5"), ("_layers\": 4", "_layers\": 6")]);
    let last = ernie.replace("index\": 3", "index\": -1");
    check(&last, &dus(4, 1), &[("_layers\": 4", "_layers\": 6")]);
    let jamba = r#"{"attn_layer_offset": 4, "attn_layer_period": 8, "expert_layer_offset": 1, "expert_layer_period": 2, "model_type": "jamba", "num_hidden_layers": 32}"#;
    check(jamba, &dus(32, 8), &[("32", "48")]);
    let error = build(jamba, &dus(32, 6), &Changes::default()).unwrap_err();
    assert!(error.to_string().starts_with("`attn_layer_period` goes by"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_list_that_loaders_make_up_must_be_stated() {
    let config = r#"{"model_type": "olmo_hybrid", "num_hidden_layers": 2}"#;
    let listed = config.replace("2}", r#"2, "layer_types": ["a", "a"]}"#);
    check_error(
        config,
        &dus(2, 0),
        "`layer_types` is absent: the family's loader makes it up from the numbers of the layers",
    );
    build(&listed, &dus(2, 0), &Changes::default()).unwrap();
}

#[test]
fn an_unknown_period_is_refused() {
    check_error(
        r#"{"num_hidden_layers": 4, "wide_mlp_every_n_layers": 2}"#,
        &dus(4, 1),
        "`wide_mlp_every_n_layers` is 2: layers seem to differ by their number, by a rule that is not \
         known",
    );
    let always = r#"{"num_hidden_layers": 4, "wide_mlp_every_n_layers": 1}"#;
    check(always, &dus(4, 1), &[("_layers\": 4", "_layers\": 6")]);
}
