use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::anatomy;
use crate::config::DecoderConfig;

/// A plan of what takes the same everywhere.
fn plan(footprint: &Footprint, memory: &Memory, gpu_layers: GpuLayers) -> Result<Plan> {
    super::plan(Sizes { gpu: footprint, cpu: footprint }, memory, gpu_layers)
}

const GIB: u64 = 1 << 30;
/// What a T4 of 16 GB has free.
const T4: u64 = 14_900 << 20;

/// SOLAR-10.7B in 16 bits, or what it is made from: the same with fewer layers.
fn solar(num_layers: usize, positions: usize) -> Footprint {
    footprint(num_layers, positions, &|_| None)
}

/// SOLAR run from the 32 layers that it is made of, `0..24 + 8..32`.
fn unbuilt(positions: usize) -> Footprint {
    let same_as = |name: &str| {
        let layer = anatomy::layer_of(name)?;
        let source = if layer < 24 { layer } else { layer - 16 };
        let mut hasher = DefaultHasher::new();
        name.replace(&format!(".{layer}."), &format!(".{source}.")).hash(&mut hasher);
        Some(hasher.finish() as usize)
    };
    footprint(48, positions, &same_as)
}

fn footprint(
    num_layers: usize,
    positions: usize,
    same_as: &dyn Fn(&str) -> Option<usize>,
) -> Footprint {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": num_layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
    });
    let object = checkpoint::json::Object::parse(&config.to_string()).unwrap();
    let config = DecoderConfig::read(&object, std::path::Path::new("config.json")).unwrap();
    let bytes = |_: &str, shape: &[usize]| 2 * shape.iter().product::<usize>() as u64;
    let footprint = Footprint::new(&config, positions, 2, &bytes, same_as);
    let quantised = [("q8_0", 8 * 34), ("q4_k", 144)]
        .map(|(name, of_256)| (name, footprint.num_parameters * of_256 / 256));
    Footprint { quantised_bytes: quantised.to_vec(), ..footprint }
}

fn t4() -> Memory {
    Memory { gpu: Some(("cuda:0".to_owned(), Some(T4))), cpu: Some(12 * GIB) }
}

#[test]
fn sizes_are_those_of_the_files() {
    let footprint = solar(48, 4096);
    assert_eq!(footprint.weight_bytes(), 21_463_048_192);
    assert_eq!(footprint.cache_bytes(4096), 4096 * 196_608);
    assert_eq!(unbuilt(1).weight_bytes(), solar(32, 1).weight_bytes());
    assert_eq!(gib(unbuilt(1).weight_bytes()), "13.49 GiB");
}

#[test]
fn solar_in_f16_is_split_on_a_t4() {
    let plan = plan(&solar(48, 4096), &t4(), GpuLayers::Auto).unwrap();
    assert!(plan.is_split() && plan.head_on_gpu() && !plan.embedding_on_gpu);
    assert!((28..33).contains(&plan.num_gpu_layers()), "{}", plan.table());
    let gpu = plan.gpu.as_ref().unwrap();
    assert!(gpu.needed_bytes() <= T4);
    // One more layer would not have fitted.
    assert!(gpu.needed_bytes() + gpu.layer_bytes[0] > T4);
    assert_eq!(gpu.weight_bytes() + plan.cpu.weight_bytes(), 21_463_048_192);
}

#[test]
fn all_of_solar_in_f16_is_refused_on_a_t4_with_what_fits() {
    let footprint = solar(48, 4096);
    let error = plan(&footprint, &t4(), GpuLayers::Count(48)).unwrap_err();
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
        layer.own_bytes = layer.own_bytes * 17 / 32;
    }
    for footprint in [unbuilt(512), quantised] {
        let plan = plan(&footprint, &t4(), GpuLayers::Count(48)).unwrap();
        assert!(!plan.is_split(), "{}", plan.table());
        assert_eq!(plan.cpu.cache_bytes, 0);
    }
}

#[test]
fn what_two_devices_share_is_counted_on_both() {
    let footprint = unbuilt(512);
    let plan = plan(&footprint, &t4(), GpuLayers::Count(24)).unwrap();
    // Layers 24..48 are the source's 8..32; the processor has 0..24.
    let layer: u64 = footprint.layers[0].shared.iter().map(|(_, bytes)| bytes).sum();
    let gpu = plan.gpu.unwrap();
    assert_eq!(gpu.layer_bytes, [layer; 24]);
    assert_eq!(gpu.weight_bytes(), 24 * layer + footprint.head_bytes);
    assert_eq!(plan.cpu.weight_bytes(), 24 * layer + footprint.embedding_bytes);
}

#[test]
fn a_large_gpu_takes_all_and_no_gpu_takes_nothing() {
    let footprint = solar(48, 4096);
    let large = Memory { gpu: Some(("cuda:0".to_owned(), Some(79 * GIB))), cpu: None };
    let plan_of = |memory: &Memory, count| plan(&footprint, memory, count).unwrap();
    let whole = plan_of(&large, GpuLayers::Auto);
    assert!(whole.embedding_on_gpu && whole.cpu.needed_bytes() == 0, "{}", whole.table());
    assert_eq!(plan_of(&large, GpuLayers::Count(99)), whole);
    let none = plan_of(&large, GpuLayers::Count(0));
    assert!(!none.head_on_gpu() && none.gpu.unwrap().needed_bytes() == 0);
    let without = plan_of(&Memory { gpu: None, cpu: None }, GpuLayers::Auto);
    assert_eq!(without.cpu.weight_bytes(), 21_463_048_192);
}

#[test]
fn what_is_shared_on_a_device_counts_where_it_comes_first() {
    let layers = unbuilt(1).layer_bytes(0..48);
    let expected: Vec<bool> = (0..48).map(|layer| (24..40).contains(&layer)).collect();
    assert_eq!(layers.iter().map(|&bytes| bytes == 0).collect::<Vec<_>>(), expected);
}

#[test]
fn a_processor_without_room_is_told_what_would_fit() {
    let small = Memory { gpu: None, cpu: Some(12 * GIB) };
    let advice = |footprint: &Footprint| plan(footprint, &small, GpuLayers::Auto).unwrap().advice;
    assert_eq!(
        advice(&solar(48, 4096)),
        [
            "--quantize q8_0 takes 11.69 GiB there",
            "--quantize q4_k takes 6.70 GiB there",
            "an up-scaled model that is run unbuilt takes its base's memory"
        ]
    );
    // It is run unbuilt already.
    assert_eq!(advice(&unbuilt(4096)).len(), 2);
    let large = Memory { gpu: None, cpu: Some(24 * GIB) };
    assert!(plan(&solar(48, 4096), &large, GpuLayers::Auto).unwrap().advice.is_empty());
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

#[test]
fn what_the_processor_has_no_room_for_is_an_error_before_it_is_loaded() {
    let on = |cpu| Memory { gpu: None, cpu };
    let check = |footprint: &Footprint, memory: &Memory, gpu_layers| {
        plan(footprint, memory, gpu_layers).unwrap().check_cpu()
    };
    let error = check(&solar(48, 4096), &on(Some(12 * GIB)), GpuLayers::Auto).unwrap_err();
    assert_eq!(
        error.to_string(),
        "embedding, layers 0..48, head need 21.06 GiB on cpu, which has 12.00 GiB free"
    );
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("--quantize q8_0 takes 11.69 GiB there; --quantize q4_k"), "{hint}");
    // What is not known is tried.
    for memory in [on(Some(22 * GIB)), on(None)] {
        check(&solar(48, 4096), &memory, GpuLayers::Auto).unwrap();
    }
    // Nothing helps a model that is far too large.
    let error = check(&unbuilt(4096), &on(Some(GIB)), GpuLayers::Auto).unwrap_err();
    assert_eq!(error.hint(), None);
}

#[test]
fn positions_that_are_too_many_are_named() {
    let memory = Memory { gpu: None, cpu: Some(24 * GIB) };
    let plan = plan(&solar(48, 4096 * 8), &memory, GpuLayers::Auto).unwrap();
    let hint = plan.check_cpu().unwrap_err().hint().unwrap();
    assert!(
        hint.contains("fewer positions or sequences, as weights alone take 19.99 GiB"),
        "{hint}"
    );
}

#[test]
fn the_processors_part_of_a_split_model_must_fit() {
    let memory = Memory { cpu: Some(6 * GIB), ..t4() };
    let check = |gpu_layers| plan(&solar(48, 4096), &memory, gpu_layers).unwrap().check_cpu();
    let error = check(GpuLayers::Auto).unwrap_err();
    assert_eq!(
        error.to_string(),
        "embedding, layers 0..17 need 7.74 GiB on cpu, which has 6.00 GiB free"
    );
    assert!(error.hint().unwrap().contains("--quantize q8_0 takes"));
    let hint = check(GpuLayers::Count(4)).unwrap_err().hint().unwrap();
    assert!(hint.ends_with("--gpu-layers auto puts 31 of 48 layers on cuda:0"), "{hint}");
    let large = Memory { cpu: Some(12 * GIB), ..memory };
    plan(&solar(48, 4096), &large, GpuLayers::Auto).unwrap().check_cpu().unwrap();
}

#[test]
fn each_device_is_planned_by_what_parts_take_there() {
    let (gpu, cpu) = (solar(48, 4096), solar(48, 4096));
    let wide = Footprint { position_bytes: 2 * cpu.position_bytes, ..cpu.clone() };
    let plan = |cpu| super::plan(Sizes { gpu: &gpu, cpu }, &t4(), GpuLayers::Count(24)).unwrap();
    assert_eq!(plan(&wide).cpu.cache_bytes, 2 * plan(&cpu).cpu.cache_bytes);
    assert_eq!(plan(&wide).gpu, plan(&cpu).gpu);
}
