//! Quantised weights: copied with their scales, never computed.

use serde_json::{Value, json};
use testkit::{Dtype, Tensor, splice};

use crate::bases;
use crate::workshop::{LAYERS, PLAN, Workshop};

/// A base with an FP8 weight and its scale in each layer, beside a plain norm.
fn fp8(config: &Value) -> (Workshop, Vec<(String, Tensor)>) {
    let mut tensors = vec![bases::bytes("model.embed_tokens.weight", Dtype::BF16, &[8, 4])];
    for layer in 0..4 {
        for (name, dtype, shape) in [
            ("self_attn.o_proj.weight", Dtype::F8_E4M3, vec![4, 4]),
            ("self_attn.o_proj.weight_scale_inv", Dtype::F32, vec![1, 1]),
            ("mlp.down_proj.qweight", Dtype::I32, vec![4, 1]),
            ("mlp.down_proj.scales", Dtype::F16, vec![4]),
            ("mlp.down_proj.g_idx", Dtype::I32, vec![4]),
            ("norm.weight", Dtype::BF16, vec![4]),
        ] {
            let name = format!("model.layers.{layer}.{name}");
            tensors.push(bases::bytes(&name, dtype, &shape));
        }
    }
    let workshop = Workshop::new();
    let mut whole = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    bases::write(&workshop.path("base"), &whole, &tensors);
    (workshop, tensors)
}

fn quantisation() -> Value {
    json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": [128, 128] } })
}

#[test]
fn weights_and_scales_are_copied_byte_for_byte() {
    for config in [quantisation(), json!({})] {
        let (workshop, tensors) = fp8(&config);
        workshop.build_base(&[]);
        let source = tensors.into_iter().collect();
        splice::assert_same(&workshop.built(), &splice::expected(&source, &LAYERS, "model.layers"));
        let found = workshop.json_of("config.json");
        assert_eq!(found.get("quantization_config"), config.get("quantization_config"));
        workshop.verified(&["out"]);
    }
}

#[test]
fn casts_are_refused() {
    for dtype in ["float16", "bfloat16", "float32"] {
        let args = ["base", "--layers", PLAN, "--dtype", dtype];
        let (workshop, _) = fp8(&quantisation());
        workshop.refused(&args, &["quantization_config"], true);
        let (workshop, _) = fp8(&json!({}));
        workshop.refused(&args, &["model.layers.0.self_attn.o_proj.weight", "F8_E4M3"], true);
        let (workshop, _) = fp8(&json!({ "quantization_config": null }));
        workshop.refused(&args, &["F8_E4M3"], true);
    }
}

#[test]
fn operations_are_refused_by_the_tensor() {
    let (workshop, _) = fp8(&quantisation());
    for (ops, tensor) in [
        ("o_proj: scale 0.5", "model.layers.0.self_attn.o_proj.weight"),
        ("o_proj.weight: scale 0.5", "model.layers.0.self_attn.o_proj.weight"),
        ("o_proj.weight_scale_inv: scale 0.5", "model.layers.0.self_attn.o_proj.weight_scale_inv"),
        ("o_proj: noise 0.1", "model.layers.0.self_attn.o_proj.weight"),
        ("down_proj: scale 2", "model.layers.0.mlp.down_proj"),
        ("down_proj.scales: scale 2", "model.layers.0.mlp.down_proj.scales"),
        ("down_proj.qweight: noise 1", "model.layers.0.mlp.down_proj.qweight"),
        ("*.*.*: scale 2", "model.layers.0."),
    ] {
        workshop.refused(&["base", "--layers", &format!("0..4{{{ops}}}")], &[tensor], true);
    }
    // What is not quantised in such a model can be computed.
    workshop.build(&["base", "--layers", "0..4{norm: zero}"]);
    for (name, tensor) in workshop.built() {
        assert_eq!(tensor.bytes.iter().all(|&it| it == 0), name.contains(".norm."), "{name}");
    }
}

/// Integers with a scale are quantised weights, whatever the config says of them.
#[test]
fn weights_of_integers_are_known_by_their_scale() {
    let named = |name: &str, dtype| bases::bytes(&format!("h.0.{name}"), dtype, &[4]);
    let tensors = [
        named("proj.weight", Dtype::I8),
        named("proj.weight_scale", Dtype::BF16),
        named("norm.weight", Dtype::BF16),
        named("norm.logit_scale", Dtype::BF16),
    ];
    let workshop = Workshop::new();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 1 });
    bases::write(&workshop.path("base"), &config, &tensors);
    let cast = ["base", "--layers", "(0)*2", "--dtype", "float16"];
    workshop.refused(&cast, &["h.0.proj.weight", "I8"], true);
    let scaled = ["base", "--layers", "(0){weight_scale: scale 2}*2"];
    workshop.refused(&scaled, &["h.0.proj.weight_scale", "quantised"], true);
    // A scale of numbers that stand for themselves is one of them.
    workshop.build(&["base", "--layers", "(0){logit_scale: zero}*2"]);
    let built = workshop.built();
    assert_eq!(built["h.1.norm.logit_scale"].bytes, [0; 8]);
    assert_eq!(built["h.1.proj.weight"], tensors[0].1);
}
