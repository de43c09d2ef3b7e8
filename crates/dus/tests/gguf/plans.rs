//! What `plan` and `inspect` say of GGUF files, plans of several, and what no loader takes.

use serde_json::json;
use testkit::TinyModel;
use testkit::gguf::tiny::expected;
use testkit::gguf::{TinyGguf, Value, read};

use crate::place::{LAYERS, PLAN, Place};

#[test]
fn a_plan_says_what_the_build_will_be() {
    let place = Place::with(&TinyGguf { has_tokens: true, ..TinyGguf::default() });
    let args = ["base.gguf", "--layers", PLAN, "-o", "out.gguf"];
    let text = place.dus(&[&["plan"], &args[..]].concat()).done().stdout;
    for part in ["base.gguf, 4 layers", "6 (2 new)", "57, 1,405,264 bytes", "J = 2", "GGUF, "] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let plan = place.dus(&[&["plan", "--json"], &args[..]].concat()).done().json();
    assert_eq!(place.names(), [""; 0], "a plan writes nothing");

    let built = place.build(&[]);
    let found = place.built();
    let file_bytes = place.path("out.gguf").metadata().unwrap().len();
    assert_eq!(plan["num_hidden_layers"], 6);
    assert_eq!(plan["obstacles"], json!([]));
    assert_eq!(plan["num_tensors"], found.tensors.len());
    for key in ["bytes", "num_parameters", "num_tensors"] {
        assert_eq!(plan[key], built[key], "{key}");
    }
    let bytes: usize = found.tensors.values().map(|tensor| tensor.bytes.len()).sum();
    assert_eq!(plan["bytes"], bytes);
    let shards = plan["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 1);
    // Provenance comes on top, once it is known where the file goes.
    let planned = shards[0]["bytes"].as_u64().unwrap();
    assert!(planned <= file_bytes && file_bytes < planned + 8192, "{planned} and {file_bytes}");
    assert!(plan["needed_bytes"].as_u64().unwrap() >= file_bytes);
}

/// Without `-o` the form is the base's.
#[test]
fn a_plan_needs_no_output() {
    let place = Place::with(&TinyGguf::default());
    let plan = place.dus(&["plan", "base.gguf", "--layers", PLAN, "--json"]).done().json();
    assert_eq!(plan["shards"][0]["name"], "model.gguf");
}

#[test]
fn inspect_describes_a_file() {
    let place = Place::with(&TinyGguf::default());
    let described = place.dus(&["inspect", "base.gguf", "--json"]).done().json();
    assert_eq!(described["num_tensors"], 39);
    assert_eq!(described["layers"]["num_hidden_layers"], 4);
    let types = described["bytes_by_dtype"].to_string();
    assert!(["F32", "Q4_K", "Q6_K"].iter().all(|kind| types.contains(kind)), "{types}");
    place.build(&[]);
    let described = place.dus(&["inspect", "out.gguf", "--duplicates", "--json"]).done().json();
    assert_eq!(described["equal_layers"], json!([[1, 3], [2, 4]]));
}

#[test]
fn a_recipe_with_a_gguf_base() {
    let place = Place::with(&TinyGguf::default());
    let recipe = format!("base = \"base.gguf\"\nlayers = \"{PLAN}\"\n");
    std::fs::create_dir(place.path("recipes")).unwrap();
    std::fs::write(place.path("recipes/r.toml"), recipe.replace("base.gguf", "../base.gguf"))
        .unwrap();
    place.dus(&["build", "recipes/r.toml", "-q", "-o", "out.gguf"]).done();
    place.check_built(&TinyGguf::default().read(), &LAYERS);
}

/// The models of a plan of two.
fn two(other: &TinyGguf) -> Place {
    let place = Place::with(&TinyGguf::default());
    other.write(&place.path("other.gguf"));
    place
}

const TWO: [&str; 8] = [
    "--model",
    "x=base.gguf",
    "--model",
    "y=other.gguf",
    "--layers",
    "x:0..3 + y:2..4",
    "-o",
    "out.gguf",
];

#[test]
fn layers_of_several_files() {
    let other = TinyGguf { seed: 1, ..TinyGguf::of("Q8_0") };
    let place = two(&other);
    place.dus(&[&["build", "-q"], &TWO[..]].concat()).done();
    let built = place.built();
    let (x, y) = (TinyGguf::default().read().tensors, other.read().tensors);
    let (front, back) = (expected(&x, &[0, 1, 2]), expected(&y, &[0, 0, 0, 2, 3]));
    for (name, tensor) in &built.tensors {
        let layer = name.strip_prefix("blk.").map(|rest| &rest[..1]);
        let is_behind = matches!(layer, Some("3" | "4")) || name.starts_with("output");
        let expected = if is_behind { &back[name] } else { &front[name] };
        assert!(tensor.is_same(expected), "{name}");
    }
    assert_eq!(built.tensors.len(), 5 * 9 + 3);
    assert_eq!(built.get("llama.block_count"), Some(&Value::U32(5)));
    place.verified(&["out.gguf"]);
}

#[test]
fn files_whose_settings_differ() {
    for (key, value) in [
        ("llama.rope.freq_base", Value::F32(1e6)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("llama.rope.scaling.type", Value::text("yarn")),
    ] {
        let place = two(&TinyGguf { extra_keys: vec![(key, value)], ..TinyGguf::default() });
        place.refused(&TWO, &["cannot be joined", key]);
    }
}

#[test]
fn files_whose_shapes_differ() {
    let place = two(&TinyGguf { feed_forward_length: 512, ..TinyGguf::default() });
    place.refused(&TWO, &["not alike"]);
}

#[test]
fn a_folder_and_a_file() {
    let place = Place::with(&TinyGguf::default());
    TinyModel::of(testkit::Family::Llama).write(&place.path("folder"));
    for models in [["x=base.gguf", "y=folder"], ["x=folder", "y=base.gguf"]] {
        let args = ["--model", models[0], "--model", models[1], "--layers", "x:0..3 + y:1..4"];
        place.refused(&[&args[..], &["-o", "out.gguf"]].concat(), &["different forms"]);
    }
}

/// llama.cpp's arrays end at 512 layers.
#[test]
fn more_layers_than_llama_cpp_loads() {
    let place = Place::with(&TinyGguf { block_count: 2, ..TinyGguf::of("Q4_0") });
    let args = ["base.gguf", "--layers", "stack(257)", "-o", "out.gguf"];
    place.refused(&args, &["514", "512"]);
    place.build_by("stack(256)", &[]);
    let built = place.built();
    assert_eq!(built.get("llama.block_count"), Some(&Value::U32(512)));
    assert!(built.tensors.contains_key("blk.511.ffn_down.weight"));
    place.verified(&["out.gguf"]);
}

/// Each is refused by every command, with nothing left.
#[test]
fn bases_that_are_broken() {
    let place = Place::empty();
    let check = |spoil: &dyn Fn(&mut testkit::gguf::RawGguf), expected: &[&str]| {
        let mut file = TinyGguf::default().file();
        spoil(&mut file);
        file.write(&place.path("base.gguf"));
        place.refused(&["base.gguf", "--layers", PLAN, "-o", "out.gguf"], expected);
        place.dus(&["inspect", "base.gguf"]).refused(expected);
    };
    check(&|file| file.version = 1, &["base.gguf", "version 1"]);
    check(&|file| file.version = 4, &["base.gguf", "version 4"]);
    check(&|file| file.magic = *b"ggml", &["base.gguf", "GGUF"]);
    check(&|file| file.tensors[1].type_id = 99, &["base.gguf", "attn_norm", "99"]);
    check(&|file| file.tensors[1].offset = Some(1 << 40), &["base.gguf", "attn_norm", "ends at"]);
    check(&|file| file.tensors[1].offset = Some(33), &["attn_norm", "alignment 32"]);
    check(&|file| file.set("general.alignment", Value::U32(48)), &["general.alignment", "48"]);
    check(&|file| file.num_keys = Some(1 << 50), &["base.gguf"]);
    check(&|file| file.remove("general.architecture"), &["base.gguf", "architecture"]);
}

#[test]
fn what_the_metadata_says_of_layers_must_be_there() {
    let place = Place::empty();
    for (count, expected) in [(3, "blk.3."), (5, "blk.4")] {
        let mut file = TinyGguf::default().file();
        file.set("llama.block_count", Value::U32(count));
        file.write(&place.path("base.gguf"));
        place.refused(&["base.gguf", "--layers", "0..2", "-o", "out.gguf"], &[expected]);
    }
}

#[test]
fn metadata_that_contradicts_the_tensors() {
    let place = Place::empty();
    for (key, value, expected) in [
        ("llama.embedding_length", Value::U32(512), "512"),
        ("llama.feed_forward_length", Value::U32(512), "512"),
        ("llama.attention.head_count_kv", Value::U32(4), "attn_k"),
        ("llama.vocab_size", Value::U32(41), "41"),
        ("tokenizer.ggml.tokens", Value::array(["a", "b", "c"].map(Value::text)), "3"),
        ("llama.block_count", Value::text("4"), "llama.block_count"),
        ("llama.embedding_length", Value::I32(-1), "llama.embedding_length"),
    ] {
        let model = TinyGguf {
            has_tokens: key.starts_with("tokenizer"),
            extra_keys: vec![(key, value)],
            ..TinyGguf::default()
        };
        model.write(&place.path("base.gguf"));
        let args = ["base.gguf", "--layers", PLAN, "-o", "out.gguf"];
        place.refused(&args, &["base.gguf", expected]);
    }
    for key in ["llama.block_count", "llama.embedding_length", "llama.attention.head_count"] {
        let mut file = TinyGguf::default().file();
        file.remove(key);
        file.write(&place.path("base.gguf"));
        place.refused(&["base.gguf", "--layers", PLAN, "-o", "out.gguf"], &["base.gguf", key]);
    }
}

#[test]
fn a_part_that_is_missing() {
    let place = Place::empty();
    let parts = TinyGguf::default().file().write_parts(place.dir(), "base", 3);
    std::fs::remove_file(&parts[1]).unwrap();
    let base = parts[0].display().to_string();
    place.refused(
        &[&base, "--layers", PLAN, "-o", "out.gguf"],
        &["base-00002-of-00003.gguf is missing"],
    );
}

/// A pipe is not waited for.
#[test]
fn a_base_that_is_no_file() {
    let place = Place::empty();
    let made = std::process::Command::new("mkfifo").arg(place.path("base.gguf")).status();
    assert!(made.unwrap().success());
    for args in [
        &["inspect", "base.gguf"][..],
        &["verify", "base.gguf"],
        &["plan", "base.gguf", "--layers", PLAN],
    ] {
        place.dus(args).refused(&["base.gguf"]);
    }
}

#[test]
fn a_folder_of_gguf_files_is_not_guessed_from() {
    let place = Place::empty();
    std::fs::create_dir(place.path("models")).unwrap();
    TinyGguf::default().write(&place.path("models/tiny.gguf"));
    assert_eq!(read(&place.path("models/tiny.gguf")).version, 3);
    place.refused(&["models", "--layers", PLAN, "-o", "out.gguf"], &["tiny.gguf", "give the file"]);
}
