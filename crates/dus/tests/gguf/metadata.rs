//! The keys of a built file: what follows the plan, what is kept, what says where it comes from.

use serde_json::json;
use testkit::gguf::{TinyGguf, Value};

use crate::place::{PLAN, Place};

/// Keys whose values a build sets.
const OURS: [&str; 2] = ["llama.block_count", "general.name"];

#[test]
fn what_does_not_follow_the_plan_is_kept_type_and_all() {
    let extra_keys = vec![
        ("general.license", Value::text("apache-2.0")),
        ("general.tags", Value::array([Value::text("a"), Value::text("b")])),
        ("general.base_model.count", Value::U32(1)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.chat_template", Value::text("{{ 'Grüße' }}\n")),
        ("mascot.u64", Value::U64(u64::MAX)),
        ("mascot.i8", Value::I8(-1)),
        ("mascot.f64", Value::F64(0.1)),
        ("mascot.bytes", Value::Bytes(vec![0xff, 0xfe])),
        ("mascot.none", Value::Array(8, Vec::new())),
        ("mascot.nested", Value::array([Value::array([Value::U16(1)])])),
    ];
    for (alignment, has_tokens) in [(None, true), (Some(64), false)] {
        let extra_keys = extra_keys.clone();
        let model = TinyGguf { extra_keys, alignment, has_tokens, ..TinyGguf::default() };
        let place = Place::with(&model);
        place.build(&[]);
        let (base, built) = (model.read(), place.built());
        assert_eq!(built.get("llama.block_count"), Some(&Value::U32(6)));
        // In the order of the base; what is new stands behind.
        let kept = |keys: &[(String, Value)]| {
            let is_kept = |key: &str| !key.starts_with("dus.") && !OURS.contains(&key);
            keys.iter().filter(|(key, _)| is_kept(key)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(kept(&built.keys), kept(&base.keys));
        let position = |key: &str| built.keys.iter().position(|(known, _)| known == key).unwrap();
        assert_eq!(position("llama.block_count"), 4, "it keeps its place");
        place.verified(&["out.gguf"]);
    }
}

#[test]
fn the_name_says_what_was_done() {
    let place = Place::with(&TinyGguf::default());
    place.build_by("dus(1)", &[]);
    let name = place.built().text("general.name").to_owned();
    assert!(name.contains("Tiny") && name.contains("dus(1)"), "{name}");

    // Where there is none, the file's is the name.
    let mut file = TinyGguf::default().file();
    file.remove("general.name");
    file.write(&place.path("base.gguf"));
    place.build_by("dus(1)", &[]);
    let name = place.built().text("general.name").to_owned();
    assert!(name.contains("base") && name.contains("dus(1)"), "{name}");
}

#[test]
fn the_size_is_told_where_the_base_tells_it() {
    let place = Place::with(&TinyGguf::default());
    let num_parameters = place.build(&[])["num_parameters"].as_u64().unwrap();
    assert_eq!(place.built().get("general.size_label"), None);
    assert_eq!(place.built().get("general.parameter_count"), None);

    let extra_keys =
        vec![("general.size_label", Value::text("7B")), ("general.parameter_count", Value::U64(7))];
    TinyGguf { extra_keys, ..TinyGguf::default() }.write(&place.path("base.gguf"));
    place.build(&[]);
    let built = place.built();
    assert_eq!(built.get("general.parameter_count"), Some(&Value::U64(num_parameters)));
    let elements: usize =
        built.tensors.values().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!(num_parameters, elements as u64);
    let label = built.text("general.size_label");
    assert!(label.starts_with("2.4M"), "{label} of {num_parameters}");
}

#[test]
fn provenance_stands_in_keys() {
    let place = Place::with(&TinyGguf::default());
    let plan = "dus(1){new o_proj: scale 0.5}";
    place.build_by(plan, &[]);
    let built = place.built();
    assert_eq!(built.text("dus.layers"), plan);
    assert_eq!(built.text("dus.plan"), "0..3 + 1..3{o_proj: scale 0.5} + 3");
    assert_eq!(built.text("dus.version"), env!("CARGO_PKG_VERSION"));
    let manifest: serde_json::Value = serde_json::from_str(built.text("dus.manifest")).unwrap();
    assert_eq!(manifest["recipe"]["layers"], plan);
    let bytes = place.path("base.gguf").metadata().unwrap().len();
    let files = json!([{ "name": "base.gguf", "bytes": bytes }]);
    assert_eq!(manifest["models"][0]["files"], files);
    assert_eq!(manifest["models"][0]["path"], "base.gguf");
    let layer = json!({ "layer": 3, "source": 1, "copy": 1, "new": true });
    for (key, value) in layer.as_object().unwrap() {
        assert_eq!(manifest["layers"][3][key], *value, "{key}");
    }
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 6);
}

/// What fills the header means nothing and is the only thing that stands there without a meaning.
#[test]
fn every_other_key_of_ours_is_known() {
    let place = Place::with(&TinyGguf { has_tokens: true, ..TinyGguf::default() });
    place.build(&[]);
    let built = place.built();
    let known =
        ["dus.version", "dus.layers", "dus.plan", "dus.manifest", "dus.tensors", "dus.filler"];
    for (key, value) in built.keys.iter().filter(|(key, _)| key.starts_with("dus.")) {
        assert!(known.contains(&key.as_str()), "{key}");
        assert!(key != "dus.filler" || value.as_text().len() < 4096);
    }
    assert_eq!(place.dus(&["plan", "base.gguf", "--layers", PLAN]).done().code, Some(0));
}
