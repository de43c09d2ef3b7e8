//! `verify` of a GGUF file: what it proves, what it finds, and where it looks for the base.

use std::fs;

use testkit::gguf::{RawGguf, RawTensor, TinyGguf, Value, read};

use crate::place::{PLAN, Place, flip};

fn built() -> Place {
    let place = Place::with(&TinyGguf { has_tokens: true, ..TinyGguf::default() });
    place.build(&[]);
    place
}

/// The build as a file that a test may spoil.
pub(crate) fn file(place: &Place) -> RawGguf {
    let read = place.built();
    let mut tensors: Vec<_> = read.tensors.iter().collect();
    tensors.sort_by_key(|(_, tensor)| tensor.begin);
    let tensor = |(name, tensor): (&String, &testkit::gguf::GgufTensor)| RawTensor {
        name: name.clone().into_bytes(),
        dims: tensor.shape.iter().rev().map(|&dim| dim as u64).collect(),
        type_id: tensor.kind.id,
        offset: None,
        bytes: tensor.bytes.clone(),
    };
    RawGguf::new(read.keys.clone(), tensors.into_iter().map(tensor).collect())
}

/// Spoils the build, and checks that `verify` answers no with one difference that names all of `expected`.
#[track_caller]
fn differs(spoil: impl FnOnce(&mut RawGguf), expected: &[&str]) {
    let place = built();
    let mut file = file(&place);
    spoil(&mut file);
    file.write(&place.path("out.gguf"));
    check_differs(&place, expected);
}

#[track_caller]
fn check_differs(place: &Place, expected: &[&str]) {
    let said = place.dus(&["verify", "out.gguf", "--json"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    let differences = said.json()["differences"].as_array().unwrap().clone();
    assert_eq!(differences.len(), 1, "{said:#?}");
    for part in expected {
        assert!(differences[0].as_str().unwrap().contains(part), "no {part:?} in {differences:?}");
    }
    let said = place.dus(&["verify", "out.gguf"]);
    assert!(said.code == Some(1) && said.stdout.contains(expected[0]), "{said:#?}");
}

#[test]
fn a_build_that_is_not_touched() {
    let place = built();
    place.verified(&["out.gguf"]);
    let said = place.dus(&["verify", "out.gguf"]).done();
    assert!(said.stdout.starts_with("out.gguf: all 57 tensors"), "{said:#?}");
    // Written anew without a change, it is still the same.
    file(&place).write(&place.path("out.gguf"));
    place.verified(&["out.gguf"]);
}

/// A byte at the beginning, in the midst and at the end of tensors, first and later copies.
#[test]
fn a_byte_of_a_tensor() {
    for name in
        ["token_embd.weight", "blk.1.attn_q.weight", "blk.3.attn_q.weight", "blk.5.ffn_norm.weight"]
    {
        for half in [0, 1, 2] {
            let place = built();
            let tensor = &place.built().tensors[name];
            let byte = (tensor.bytes.len() as u64 - 1) * half / 2;
            flip(&place.path("out.gguf"), tensor.begin + byte);
            check_differs(&place, &["base.gguf", &format!("first at byte {byte}")]);
        }
    }
}

#[test]
fn a_tensor_from_another_layer() {
    let swap = |file: &mut RawGguf| {
        let other = file.tensor("blk.0.attn_q.weight").bytes.clone();
        file.tensor("blk.1.attn_q.weight").bytes = other;
    };
    differs(swap, &["model.layers.1.self_attn.q_proj.weight", "differs"]);
}

#[test]
fn a_key_that_was_changed_added_or_dropped() {
    let set = |key: &'static str, value: Value| move |file: &mut RawGguf| file.set(key, value);
    differs(set("general.name", Value::text("Mine")), &["`general.name` is \"Mine\", built as"]);
    differs(
        set("llama.context_length", Value::U32(1024)),
        &["llama.context_length", "1024", "512"],
    );
    differs(set("llama.rope.freq_base", Value::F32(1e6)), &["llama.rope.freq_base"]);
    differs(set("general.mascot", Value::text("yak")), &["`general.mascot`", "built as absent"]);
    let drop = |file: &mut RawGguf| file.remove("general.file_type");
    differs(drop, &["`general.file_type` is absent"]);
    let tokens = |file: &mut RawGguf| {
        let all = file.keys.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
        let Value::Array(_, tokens) = &mut all.1 else { panic!("tokens are an array") };
        tokens[7] = Value::text("<0xFF>");
    };
    differs(tokens, &["tokenizer.ggml.tokens"]);
}

/// A value that is no number equals itself here.
#[test]
fn a_value_that_is_not_a_number() {
    let extra_keys = vec![
        ("mascot.nan", Value::F32(f32::NAN)),
        ("mascot.nans", Value::array([Value::F64(f64::NAN)])),
    ];
    let place = Place::with(&TinyGguf { extra_keys, ..TinyGguf::default() });
    place.build(&[]);
    place.verified(&["out.gguf"]);
}

/// The same number in another type may mean nothing to a loader, which asks for the type.
#[test]
fn a_value_of_another_type() {
    let wide = |file: &mut RawGguf| file.set("llama.context_length", Value::U64(512));
    differs(wide, &["llama.context_length"]);
}

#[test]
fn a_tensor_that_is_missing_or_too_many() {
    let drop = |file: &mut RawGguf| drop(file.tensors.pop());
    differs(drop, &["is missing"]);
    let rename = |file: &mut RawGguf| {
        let extra =
            RawTensor { name: b"blk.6.ffn_norm.weight".to_vec(), ..file.tensors[1].clone() };
        file.tensors.push(extra);
    };
    differs(rename, &["blk.6.ffn_norm.weight", "block_count"]);
}

#[test]
fn a_build_cut_short() {
    let place = built();
    let bytes = fs::read(place.path("out.gguf")).unwrap();
    fs::write(place.path("out.gguf"), &bytes[..bytes.len() - 100]).unwrap();
    check_differs(&place, &["ends at"]);
}

/// What was computed is computed again.
#[test]
fn a_byte_of_what_was_computed() {
    let place = Place::with(&TinyGguf::of("Q8_0"));
    place.build_by("dus(1){new o_proj: scale 0.5, new down_proj: zero}", &[]);
    place.verified(&["out.gguf"]);
    for name in ["blk.3.attn_output.weight", "blk.4.ffn_down.weight"] {
        let sound = fs::read(place.path("out.gguf")).unwrap();
        flip(&place.path("out.gguf"), place.built().tensors[name].begin + 1000);
        check_differs(&place, &["differs from what is computed from", "first at byte 1000"]);
        fs::write(place.path("out.gguf"), sound).unwrap();
    }
}

#[test]
fn the_build_may_be_renamed_and_moved_with_its_base() {
    let place = built();
    fs::rename(place.path("out.gguf"), place.path("other name.gguf")).unwrap();
    place.verified(&["other name.gguf"]);
    fs::create_dir(place.path("away")).unwrap();
    for name in ["base.gguf", "other name.gguf"] {
        fs::rename(place.path(name), place.path("away").join(name)).unwrap();
    }
    place.verified(&["away/other name.gguf"]);
    // By a link too.
    std::os::unix::fs::symlink("away/other name.gguf", place.path("link.gguf")).unwrap();
    place.verified(&["link.gguf"]);
}

/// The base of a GGUF file is one file, and its name is no part of it.
#[test]
fn a_base_that_was_moved_is_named() {
    let place = built();
    fs::create_dir(place.path("away")).unwrap();
    for moved in ["away/base.gguf", "renamed.gguf"] {
        fs::rename(place.path("base.gguf"), place.path(moved)).unwrap();
        let said =
            place.dus(&["verify", "out.gguf"]).refused(&["the base of this build is not where"]);
        assert!(said.stderr.contains("hint: --base"), "{said:#?}");
        place.verified(&["out.gguf", "--base", moved]);
        fs::rename(place.path(moved), place.path("base.gguf")).unwrap();
    }
}

/// As in the hub's cache: the files are blobs without an ending, and links have their names.
#[test]
fn a_base_that_is_links() {
    use std::os::unix::fs::symlink;

    let place = Place::empty();
    for dir in ["blobs", "links"] {
        fs::create_dir(place.path(dir)).unwrap();
    }
    let parts = TinyGguf::default().file().write_parts(place.dir(), "split", 2);
    let mut files = vec![place.path("whole.gguf")];
    TinyGguf::default().write(&files[0]);
    files.extend(parts);
    for (i, file) in files.iter().enumerate() {
        fs::rename(file, place.path(&format!("blobs/{i}"))).unwrap();
        let link = place.path("links").join(file.file_name().unwrap());
        symlink(format!("../blobs/{i}"), link).unwrap();
    }
    for base in ["links/whole.gguf", "links/split-00001-of-00002.gguf"] {
        let args = ["build", base, "--layers", PLAN, "-q", "-o", "out.gguf", "--force"];
        place.dus(&args).done();
        place.verified(&["out.gguf"]);
        let manifest: serde_json::Value =
            serde_json::from_str(place.built().text("dus.manifest")).unwrap();
        assert_eq!(manifest["models"][0]["path"], base);
    }
}

#[test]
fn another_base_is_refused() {
    let place = built();
    TinyGguf { block_count: 5, ..TinyGguf::default() }.write(&place.path("other.gguf"));
    let args = ["verify", "out.gguf", "--base", "other.gguf"];
    place.dus(&args).refused(&["other.gguf is not the base of this build"]);
    // One of the same length differs in its tensors.
    TinyGguf { seed: 1, has_tokens: true, ..TinyGguf::default() }.write(&place.path("other.gguf"));
    assert_eq!(place.dus(&args).code, Some(1));
}

#[test]
fn what_is_no_build() {
    let place = Place::with(&TinyGguf::default());
    place.dus(&["verify", "base.gguf"]).refused(&["base.gguf is not a build", "dus.manifest"]);
    place.dus(&["verify", "out.gguf"]).refused(&["out.gguf"]);
    fs::write(place.path("text.gguf"), "text").unwrap();
    place.dus(&["verify", "text.gguf"]).refused(&["text.gguf"]);
    let spoil = |text: Value| {
        let mut file = TinyGguf::default().file();
        file.set("dus.manifest", text);
        file.write(&place.path("out.gguf"));
        place.dus(&["verify", "out.gguf"])
    };
    spoil(Value::text("{}")).refused(&["out.gguf"]);
    spoil(Value::text("{")).refused(&["out.gguf"]);
    spoil(Value::U32(1)).refused(&["out.gguf", "dus.manifest"]);
}

#[test]
fn a_split_base_is_proved_too() {
    let model = TinyGguf::default();
    let place = Place::empty();
    let parts = model.file().write_parts(place.dir(), "base", 3);
    let base = parts[1].display().to_string();
    place.dus(&["build", &base, "--layers", PLAN, "-q", "-o", "out.gguf"]).done();
    place.verified(&["out.gguf"]);
    let tensor = read(&parts[2]).tensors["blk.3.ffn_down.weight"].begin;
    flip(&parts[2], tensor);
    check_differs(&place, &["model.layers.5.mlp.down_proj.weight", "first at byte 0"]);
}
