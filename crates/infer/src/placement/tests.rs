use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;

const GIB: u64 = 1 << 30;
/// What a T4 of 16 GB has free.
const T4: u64 = 14_900 << 20;

/// SOLAR-10.7B in 16 bits, or what it is made from: the same with fewer layers.
fn solar(num_layers: usize, positions: usize) -> Needs {
    needs(num_layers, positions, &|_| None)
}

/// SOLAR run from the 32 layers that it is made of, `0..24 + 8..32`.
fn unbuilt(positions: usize) -> Needs {
    let same_as = |name: &str| {
        let layer = anatomy::layer_of(name)?;
        let source = if layer < 24 { layer } else { layer - 16 };
        let mut hasher = DefaultHasher::new();
        name.replace(&format!(".{layer}."), &format!(".{source}.")).hash(&mut hasher);
        Some(hasher.finish() as usize)
    };
    needs(48, positions, &same_as)
}

fn needs(num_layers: usize, positions: usize, same_as: &dyn Fn(&str) -> Option<usize>) -> Needs {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": num_layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
    });
    let object = checkpoint::json::Object::parse(&config.to_string()).unwrap();
    let config = DecoderConfig::read(&object, std::path::Path::new("config.json")).unwrap();
    let bytes = |_: &str, shape: &[usize]| 2 * shape.iter().product::<usize>() as u64;
    Needs::of(&config, positions, 2, &bytes, same_as)
}

fn t4() -> Memory {
    Memory { gpu: Some(("cuda:0".to_owned(), Some(T4))), cpu: Some(12 * GIB) }
}

#[test]
fn sizes_are_those_of_the_files() {
    let needs = solar(48, 4096);
    assert_eq!(needs.weights(), 21_463_048_192);
    assert_eq!(48 * needs.layer_cache, 4096 * 196_608);
    assert_eq!(unbuilt(1).weights(), solar(32, 1).weights());
    assert_eq!(gib(unbuilt(1).weights()), "13.49 GiB");
}

#[test]
fn solar_in_f16_is_split_on_a_t4() {
    let plan = plan(&solar(48, 4096), &t4(), GpuLayers::Auto).unwrap();
    assert!(plan.is_split() && plan.head_on_gpu() && !plan.embedding_on_gpu);
    assert!((28..33).contains(&(48 - plan.first_gpu_layer)), "{}", plan.table());
    assert!(plan.gpu.total() <= T4);
    // One more layer would not have fitted.
    assert!(plan.gpu.total() + plan.gpu.weights / 30 > T4);
    let all = plan.gpu.weights + plan.cpu.weights;
    assert_eq!(all, 21_463_048_192);
}

#[test]
fn all_of_solar_in_f16_is_refused_on_a_t4_with_what_fits() {
    let needs = solar(48, 4096);
    let error = plan(&needs, &t4(), GpuLayers::Count(48)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layers 0..48 need 21.35 GiB on cuda:0, which has 14.55 GiB free"
    );
    let hint = error.hint().unwrap();
    for fits in ["--quantize q8_0", "--quantize q4_k", "--gpu-layers auto", "unbuilt"] {
        assert!(hint.contains(fits), "{hint}");
    }
}

#[test]
fn unbuilt_and_quantised_solar_fit_a_t4() {
    let mut quantised = solar(48, 4096);
    for layer in &mut quantised.layers {
        layer.own = layer.own * 17 / 32;
    }
    for needs in [unbuilt(512), quantised] {
        let plan = plan(&needs, &t4(), GpuLayers::Count(48)).unwrap();
        assert!(!plan.is_split(), "{}", plan.table());
        assert_eq!(plan.cpu.cache, 0);
    }
}

#[test]
fn what_two_devices_share_is_counted_on_both() {
    let needs = unbuilt(512);
    let plan = plan(&needs, &t4(), GpuLayers::Count(24)).unwrap();
    // Layers 24..48 are the source's 8..32; the processor has 0..24.
    let layer: u64 = needs.layers[0].shared.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(plan.gpu.weights, 24 * layer + needs.head);
    assert_eq!(plan.cpu.weights, 24 * layer + needs.embedding);
}

#[test]
fn a_large_gpu_takes_all_and_no_gpu_takes_nothing() {
    let needs = solar(48, 4096);
    let large = Memory { gpu: Some(("cuda:0".to_owned(), Some(79 * GIB))), cpu: None };
    let plan_of = |memory: &Memory, count| plan(&needs, memory, count).unwrap();
    let whole = plan_of(&large, GpuLayers::Auto);
    assert!(whole.embedding_on_gpu && whole.cpu.total() == 0, "{}", whole.table());
    assert_eq!(plan_of(&large, GpuLayers::Count(99)), whole);
    let none = plan_of(&large, GpuLayers::Count(0));
    assert!(!none.head_on_gpu() && none.gpu.total() == 0);
    let without = plan_of(&Memory { gpu: None, cpu: None }, GpuLayers::Auto);
    assert_eq!(without.cpu.weights, 21_463_048_192);
}

#[test]
fn the_table_names_devices_and_what_is_free() {
    let plan = plan(&solar(48, 4096), &t4(), GpuLayers::Count(20)).unwrap();
    assert_eq!(
        plan.table(),
        "\
placement, with room for 4096 positions:
  cuda:0  layers 28..48, head: 8.37 GiB weights + 0.31 GiB cache + 0.85 GiB work = 9.54 GiB of 14.55 GiB free
  cpu     embedding, layers 0..28: 11.62 GiB weights + 0.44 GiB cache + 0.32 GiB work = 12.38 GiB, more than the 12.00 GiB free
"
    );
}
