//! The recipes of `configs/`, planned on the published models that they name, without their weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Source};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::dus::{dus, names, project, run, tiny_mistral};
use crate::real::{self, RealModel};

/// What a recipe comes to; depths, J and unused layers are those of the design's table of presets,
/// parameters those of the model that was published, where one was.
struct Expected {
    num_hidden_layers: u64,
    discrepancy: u64,
    unused_layers: &'static [u64],
    num_parameters: u64,
    function_preserving: Option<bool>,
}

/// Plans `configs/RECIPE.toml` on models that are written to `dir` under the names of the recipe.
#[track_caller]
fn plan(dir: &Path, recipe: &str, models: &[(&str, RealModel)], flags: &[&str]) -> Value {
    let recipe = project().join("configs").join(format!("{recipe}.toml")).display().to_string();
    let mut args = vec!["plan".to_owned(), recipe, "--json".to_owned()];
    for (name, model) in models {
        let path = dir.join(if name.is_empty() { "base" } else { name });
        if !path.exists() {
            model.write(&path);
        }
        let path = path.display();
        args.extend(match *name {
            "" => ["--base".to_owned(), path.to_string()],
            name => ["--model".to_owned(), format!("{name}={path}")],
        });
    }
    let args: Vec<&str> = args.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let said = run(dus(dir), &args);
    let plan = said.json();
    // Whatever the plan, a disk may be too small for it.
    let obstacles = plan["obstacles"].as_array().unwrap();
    let others: Vec<&Value> = obstacles
        .iter()
        .filter(|o| !o.as_str().is_some_and(|o| o.contains(" free, but the build needs ")))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(said.code, Some(if obstacles.is_empty() { 0 } else { 2 }), "{}", said.stderr);
    plan
}

#[track_caller]
fn check(recipe: &str, models: &[(&str, RealModel)], expected: &Expected) {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path(), recipe, models, &[]);
    assert_eq!(plan["num_hidden_layers"], expected.num_hidden_layers);
    assert_eq!(plan["layers"].as_array().map(Vec::len), Some(expected.num_hidden_layers as usize));
    assert_eq!(plan["discrepancy"], expected.discrepancy);
    assert_eq!(plan["num_parameters"], expected.num_parameters);
    assert_eq!(plan["function_preserving"], json!(expected.function_preserving));
    let unused: Vec<&Value> = plan["unused_layers"].as_array().unwrap().iter().collect();
    let layers: Vec<u64> = unused.iter().map(|layer| layer["layer"].as_u64().unwrap()).collect();
    assert_eq!(layers, expected.unused_layers);
    let shards = plan["shards"].as_array().unwrap();
    assert!(shards.iter().all(|shard| shard["tensor_bytes"].as_u64().unwrap() <= 5_000_000_000));
}

const SOLAR: Expected = Expected {
    num_hidden_layers: 48,
    discrepancy: 16,
    unused_layers: &[],
    num_parameters: 10_731_524_096,
    function_preserving: Some(false),
};

#[test]
fn solar_10_7b() {
    check("solar-10.7b", &[("", real::mistral_7b())], &SOLAR);
}

#[test]
fn idus() {
    check("idus-8", &[("", real::mistral_7b())], &SOLAR);
    check("idus-1", &[("", real::mistral_7b())], &Expected { discrepancy: 352, ..SOLAR });
}

#[test]
fn yi_9b() {
    check("yi-9b", &[("", real::yi_6b())], &Expected { num_parameters: 8_829_407_232, ..SOLAR });
}

/// The buffers of the rotary embedding are tensors like others, and are counted as such.
#[test]
fn llama_pro_8b() {
    let expected = Expected {
        num_hidden_layers: 40,
        discrepancy: 8,
        num_parameters: 8_357_482_496 + 40 * 64,
        function_preserving: Some(true),
        ..SOLAR
    };
    check("llama-pro-8b", &[("", real::llama_2_7b())], &expected);
}

#[test]
fn goliath_120b() {
    let expected = Expected {
        num_hidden_layers: 137,
        discrepancy: 57,
        // Of Xwin: 16, 32, 48 and 64. Of Euryale: what stands before 8 and from 72 on, and 24, 40, 56.
        unused_layers: &[
            16, 32, 48, 64, 0, 1, 2, 3, 4, 5, 6, 7, 24, 40, 56, 72, 73, 74, 75, 76, 77, 78, 79,
        ],
        num_parameters: 117_748_948_992,
        ..SOLAR
    };
    let models = [("x", real::llama_2_70b()), ("e", real::llama_2_70b())];
    check("goliath-120b", &models, &expected);
}

#[test]
fn solar_pro_22b() {
    let expected = Expected {
        num_hidden_layers: 64,
        discrepancy: 24,
        num_parameters: 22_139_376_640,
        ..SOLAR
    };
    check("solar-pro-22b", &[("", real::phi_3_medium())], &expected);
}

#[test]
fn granite_34b_code() {
    let expected = Expected {
        num_hidden_layers: 88,
        discrepancy: 36,
        num_parameters: 33_715_603_456,
        function_preserving: None,
        ..SOLAR
    };
    check("granite-34b-code", &[("", real::granite_20b_code())], &expected);
}

#[test]
fn mistral_small_39b() {
    let expected = Expected {
        num_hidden_layers: 99,
        discrepancy: 44,
        unused_layers: &[55],
        num_parameters: 39_020_832_768,
        ..SOLAR
    };
    check("mistral-small-39b", &[("", real::mistral_small())], &expected);
}

#[test]
fn tiny_solar() {
    let recipe = project().join("configs/tiny-solar.toml").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let plan = run(dus(dir.path()), &["plan", &recipe, "--json"]).done().json();
    assert_eq!((&plan["num_hidden_layers"], &plan["discrepancy"]), (&json!(48), &json!(16)));
}

/// Every recipe is one that a test here plans, and every one says why it is worth having.
#[test]
fn all_recipes_are_tested() {
    let tested = [
        "goliath-120b.toml",
        "granite-34b-code.toml",
        "idus-1.toml",
        "idus-8.toml",
        "llama-pro-8b.toml",
        "mistral-small-39b.toml",
        "solar-10.7b.toml",
        "solar-pro-22b.toml",
        "tiny-solar.toml",
        "yi-9b.toml",
    ];
    let configs = project().join("configs");
    assert_eq!(names(&configs), tested, "what lies in configs/");
    for name in tested {
        Draft::read(&configs.join(name)).unwrap().finish().unwrap();
        assert!(fs::read_to_string(configs.join(name)).unwrap().starts_with("# "), "{name}");
    }
}

/// Bytes and numbers of tensors of the five files of `upstage/SOLAR-10.7B-v1.0`.
const SOLAR_SHARDS: [(u64, usize); 5] = [
    (4_943_151_104, 97),
    (4_999_806_976, 106),
    (4_915_904_512, 100),
    (4_915_904_512, 100),
    (1_688_281_088, 32),
];

#[test]
fn solar_s_files_are_those_of_its_release() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path(), "solar-10.7b", &[("", real::mistral_7b())], &[]);
    assert_eq!((&plan["bytes"], &plan["num_tensors"]), (&json!(21_463_048_192_u64), &json!(435)));
    let shards: Vec<(&str, u64)> = plan["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| (shard["name"].as_str().unwrap(), shard["tensor_bytes"].as_u64().unwrap()))
        .collect();
    let expected: Vec<(String, u64)> = (1..=5)
        .map(|i| format!("model-0000{i}-of-00005.safetensors"))
        .zip(SOLAR_SHARDS.map(|(bytes, _)| bytes))
        .collect();
    let expected: Vec<(&str, u64)> = expected.iter().map(|(name, b)| (&**name, *b)).collect();
    assert_eq!(shards, expected);
    // What is cast cannot be shared.
    assert_eq!(plan["shareable_bytes"], json!({ "size": 0, "source": 0 }));
}

#[test]
fn nearly_all_of_solar_can_be_shared_with_mistral() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--dtype", "bfloat16", "--shard-layout", "source"];
    let solar = plan(dir.path(), "solar-10.7b", &[("", real::mistral_7b())], &flags);
    let [bytes, source] = [&solar["bytes"], &solar["shareable_bytes"]["source"]];
    let share = source.as_f64().unwrap() / bytes.as_f64().unwrap();
    assert!((0.999..=1.0).contains(&share), "{source} of {bytes}");
}

/// The blueprint of `configs/solar-10.7b.toml` on the real Mistral.
fn solar_blueprint() -> (TempDir, Blueprint) {
    let dir = tempfile::tempdir().unwrap();
    real::mistral_7b().write(&dir.path().join("base"));
    let base = Source { spec: "base".to_owned(), relative_to: dir.path().to_owned() };
    let flags = Draft { base: Some(base), ..Draft::default() };
    let recipe = Draft::read(&project().join("configs/solar-10.7b.toml")).unwrap();
    let blueprint =
        Blueprint::new(recipe.replaced_by(flags).finish().unwrap(), LayoutKind::Size, None);
    (dir, blueprint.unwrap())
}

#[test]
fn solar_s_tensors_are_in_the_files_of_its_release() {
    let (_dir, blueprint) = solar_blueprint();
    let shards = &blueprint.layout.shards;
    let found: Vec<usize> = shards.iter().map(|shard| shard.tensors.len()).collect();
    assert_eq!(found, SOLAR_SHARDS.map(|(_, num_tensors)| num_tensors));
    let shard_of: BTreeMap<&str, usize> = shards
        .iter()
        .enumerate()
        .flat_map(|(s, shard)| shard.tensors.iter().map(move |tensor| (s, tensor.tensor)))
        .map(|(s, tensor)| (&*blueprint.splice.tensors[tensor].name, s))
        .collect();
    for (last, first) in [
        ("10.mlp.up_proj", "10.mlp.down_proj"),
        ("22.self_attn.o_proj", "22.mlp.gate_proj"),
        ("33.mlp.gate_proj", "33.mlp.up_proj"),
        ("44.mlp.up_proj", "44.mlp.down_proj"),
    ] {
        let shard = |name: &str| shard_of[&*format!("model.layers.{name}.weight")];
        assert_eq!(shard(last) + 1, shard(first), "{last}");
    }
    assert_eq!((shard_of["model.embed_tokens.weight"], shard_of["lm_head.weight"]), (0, 4));
}

/// Key by key, as `upstage/SOLAR-10.7B-v1.0` has them; `use_cache` and the version are its trainer's.
#[test]
fn solar_s_config_is_that_of_its_release() {
    let (_dir, blueprint) = solar_blueprint();
    let published = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": null,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "float16",
        "vocab_size": 32000,
    });
    // What Llama's config has by default may be left out.
    let defaults = json!({ "attention_bias": false, "pretraining_tp": 1, "rope_scaling": null });
    let config = blueprint.config.unwrap().config;
    for (key, value) in published.as_object().unwrap() {
        let found = config.get(key).or_else(|| defaults.get(key).cloned());
        assert_eq!(found.as_ref(), Some(value), "{key}");
    }
    let others: Vec<&str> = config.keys().filter(|key| published.get(key).is_none()).collect();
    // `mlp_bias` is a key of later versions, and false by default.
    assert_eq!(others, ["mlp_bias", "transformers_version", "use_cache"]);
    assert_eq!(config.get("mlp_bias"), Some(json!(false)));
}

/// The factors of Phi-3's rotary embedding are no list of layers, and stay as they are.
#[test]
fn solar_pro_keeps_the_factors_of_its_positions() {
    let dir = tempfile::tempdir().unwrap();
    real::phi_3_medium().write(&dir.path().join("base"));
    let base = Source { spec: "base".to_owned(), relative_to: dir.path().to_owned() };
    for (layers, depth) in [("dus(8)", 64), ("dus(s=72)", 72), ("0..32 + 8..40", 64)] {
        let draft =
            Draft { base: Some(base.clone()), layers: Some(layers.to_owned()), ..Draft::default() };
        let blueprint = Blueprint::new(draft.finish().unwrap(), LayoutKind::Size, None).unwrap();
        let old = blueprint.models[0].checkpoint.config().clone();
        let new = blueprint.config.unwrap().config;
        assert_eq!(new.get("num_hidden_layers"), Some(json!(depth)));
        assert_eq!(new.text("rope_scaling"), old.text("rope_scaling"));
    }
}

/// A recipe finds its base in the hub's cache, and says what is missing if it is not there.
#[test]
fn a_recipe_names_its_base_on_the_hub() {
    let recipe = project().join("configs/solar-10.7b.toml").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let said = run(dus(dir.path()), &["plan", &recipe, "--json"]);
    said.refused(&["mistralai/Mistral-7B-v0.1", "hint: ", "HF_HUB_OFFLINE"]);

    let cached = dir.path().join("hub/models--mistralai--Mistral-7B-v0.1");
    let commit = "26bca36bde8333b5d7f72e9ed20ccda6a618af24";
    real::mistral_7b().write(&cached.join("snapshots").join(commit));
    fs::create_dir(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), commit).unwrap();
    let plan = run(dus(dir.path()), &["plan", &recipe, "--json"]).json();
    assert_eq!(plan["num_parameters"], SOLAR.num_parameters);
}

/// What is planned is what the tiny model's recipe builds.
#[test]
fn tiny_solar_is_built_as_planned() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = project().join("configs/tiny-solar.toml").display().to_string();
    let plan = run(dus(dir.path()), &["plan", &recipe, "--json"]).done().json();
    let built = run(dus(dir.path()), &["build", &recipe, "-o", "out", "--json"]).done().json();
    for key in ["num_hidden_layers", "num_parameters", "num_tensors", "bytes", "notes"] {
        assert_eq!(plan[key], built[key], "{key}");
    }
    let base = testkit::weights::read(&tiny_mistral());
    crate::dus::assert_spliced(&dir.path().join("out"), &base, (0..24).chain(8..32));
}
