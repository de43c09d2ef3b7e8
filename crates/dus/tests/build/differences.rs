//! `verify`: a build is what its sources give, or the difference is named.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::raw::{self, RawFile};
use testkit::{Dtype, Family, TinyModel, weights};

use crate::bases;
use crate::workshop::{PLAN, Workshop};

/// A build of two shards and more.
fn built(flags: &[&str]) -> Workshop {
    built_by(PLAN, flags)
}

fn built_by(plan: &str, flags: &[&str]) -> Workshop {
    let workshop = Workshop::with(&TinyModel { num_shards: Some(2), ..TinyModel::default() });
    workshop.build(&[&["base", "--layers", plan, "--max-shard-size", "20KB"], flags].concat());
    workshop
}

/// Checks that `verify` answers no, in text and as JSON, with one difference that holds `expected`.
#[track_caller]
fn differs(workshop: &Workshop, expected: &str) {
    let run = workshop.dus(&["verify", "out"]);
    assert_eq!(run.code, 1, "{expected}: {}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains(expected), "no {expected:?} in {}", run.stdout);
    assert!(workshop.dus(&["verify", "out", "-q"]).stdout.contains(expected));
    let verdict = workshop.dus(&["verify", "out", "--json"]).json(1);
    assert_eq!(verdict["equal"], false);
    let differences = verdict["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{verdict}");
    assert!(differences[0].as_str().unwrap().contains(expected), "no {expected:?} in {verdict}");
    let keys: Vec<&String> = verdict.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["equal", "num_tensors", "bytes", "differences"]);
}

/// Checks that `verify ARGS` ends with 2 and names all of `expected`.
#[track_caller]
fn impossible(workshop: &Workshop, args: &[&str], expected: &[&str]) {
    let run = workshop.dus(&[&["verify"], args].concat());
    assert_eq!(run.code, 2, "{args:?}: {}{}", run.stdout, run.stderr);
    assert_eq!(run.stdout, "");
    for part in expected {
        assert!(run.stderr.contains(part), "no {part:?} in {}", run.stderr);
    }
}

/// Changes one byte, and returns the offset.
fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).unwrap();
}

/// The tensors of a shard with their places in the file, in that order.
fn places(path: &Path) -> Vec<(String, std::ops::Range<u64>)> {
    let header = RawFile::read(path).header;
    let data = 8 + header.len() as u64;
    let header: Value = serde_json::from_str(&header).unwrap();
    let place = |(name, info): (&String, &Value)| {
        let offset = |i: usize| data + info["data_offsets"][i].as_u64().unwrap();
        (name.clone(), offset(0)..offset(1))
    };
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let mut places: Vec<_> = tensors.map(place).collect();
    places.sort_by_key(|(_, range)| range.start);
    places
}

fn shards(workshop: &Workshop) -> Vec<String> {
    let files = workshop.files("out").into_iter();
    files.filter(|name| name.ends_with(".safetensors")).collect()
}

/// Flips the first, a middle and the last byte of each shard, and some tensors' first and last.
#[track_caller]
fn check_flips(plan: &str, flags: &[&str]) {
    let workshop = built_by(plan, flags);
    workshop.verified(&["out"]);
    for shard in shards(&workshop) {
        let path = workshop.path("out").join(shard);
        let places = places(&path);
        for (name, range) in [&places[0], &places[places.len() / 2], &places[places.len() - 1]] {
            for offset in [range.start, u64::midpoint(range.start, range.end), range.end - 1] {
                flip(&path, offset);
                differs(&workshop, &format!("`{name}`"));
                flip(&path, offset);
            }
        }
    }
    workshop.verified(&["out"]);
}

#[test]
fn of_one_byte_anywhere_is_found() {
    check_flips(PLAN, &[]);
    check_flips(PLAN, &["--shard-layout", "source"]);
}

#[test]
fn of_one_byte_in_what_is_computed_is_found() {
    check_flips(PLAN, &["--dtype", "float16"]);
    check_flips("0..4{*.*: scale 0.3, o_proj: zero, new *.*.*: noise 0.1 seed=3}*2", &[]);
}

/// Longer than the blocks in which files are compared.
#[test]
fn behind_the_first_block_are_found() {
    let model = TinyModel { vocab_size: 90_000, ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    for flags in [&[][..], &["--dtype", "float32"]] {
        workshop.build_base(flags);
        workshop.verified(&["out"]);
        let path = workshop.path("out/model.safetensors");
        let places = places(&path);
        let (name, range) = places.iter().find(|(name, _)| name == "lm_head.weight").unwrap();
        for back in [1, 4096, 1_000_000] {
            flip(&path, range.end - back);
            differs(&workshop, &format!("`{name}`"));
            flip(&path, range.end - back);
        }
    }
}

/// Tensors of one byte, and of one more than files are likely to be compared by.
#[test]
fn in_the_last_byte_are_found() {
    let lengths = [1, 4097, (1 << 16) + 1, (1 << 20) + 1, (1 << 22) + 1];
    let tensors: Vec<_> = (0..4)
        .flat_map(|layer| lengths.map(|length| (format!("h.{layer}.of_{length}"), length)))
        .map(|(name, length)| bases::bytes(&name, Dtype::U8, &[length]))
        .collect();
    let workshop = Workshop::new();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    bases::write(&workshop.path("base"), &config, &tensors);
    workshop.build_base(&[]);
    let path = workshop.path("out/model.safetensors");
    for (name, range) in places(&path).iter().filter(|(name, _)| name.starts_with("h.5.")) {
        flip(&path, range.end - 1);
        differs(&workshop, &format!("`{name}`"));
        flip(&path, range.end - 1);
    }
    workshop.verified(&["out"]);
}

/// All that differs is listed, in order of names.
#[test]
fn are_all_listed() {
    let workshop = built(&[]);
    for shard in shards(&workshop) {
        let path = workshop.path("out").join(shard);
        for (_, range) in places(&path) {
            flip(&path, range.start);
        }
    }
    let verdict = workshop.dus(&["verify", "out", "--json"]).json(1);
    let differences = verdict["differences"].as_array().unwrap();
    assert_eq!(verdict["num_tensors"], differences.len());
    assert!(differences.iter().map(Value::as_str).is_sorted());
    let run = workshop.dus(&["verify", "out"]);
    for name in workshop.built().keys() {
        assert!(run.stdout.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn a_missing_shard_is_named() {
    for shard in shards(&built(&[])) {
        let workshop = built(&[]);
        fs::remove_file(workshop.path("out").join(&shard)).unwrap();
        differs(&workshop, &shard);
    }
    let workshop = Workshop::with(&TinyModel::default());
    workshop.build_base(&[]);
    fs::remove_file(workshop.path("out/model.safetensors")).unwrap();
    let run = workshop.dus(&["verify", "out"]);
    assert_eq!(run.code, 1, "{run:?}");
}

#[test]
fn a_truncated_shard_is_named() {
    for (cut, flags) in [(1, &[][..]), (5000, &[]), (1, &["--shard-layout", "source"])] {
        let workshop = built(flags);
        for shard in shards(&workshop) {
            let path = workshop.path("out").join(&shard);
            let whole = fs::read(&path).unwrap();
            for len in [whole.len() - cut, 4, 0] {
                fs::write(&path, &whole[..len]).unwrap();
                differs(&workshop, &shard);
            }
            fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
            differs(&workshop, &shard);
            fs::write(&path, &whole).unwrap();
        }
        workshop.verified(&["out"]);
    }
}

/// Puts `change` to the header and the data of the first shard, and to the index.
fn edit(workshop: &Workshop, change: impl Fn(&mut Value, &mut Vec<u8>, &mut Value)) {
    let path = workshop.path("out").join(&shards(workshop)[0]);
    let mut file = RawFile::read(&path);
    let mut header: Value = serde_json::from_str(&file.header).unwrap();
    raw::edit_json(&workshop.path("out").join(weights::INDEX), |index| {
        change(&mut header, &mut file.data, &mut index["weight_map"]);
    });
    file.header = header.to_string();
    file.write(&path);
}

#[test]
fn a_tensor_too_many_or_too_few_is_named() {
    for in_index in [true, false] {
        let workshop = built(&[]);
        let shard = shards(&workshop)[0].clone();
        edit(&workshop, |header, data, weight_map| {
            let offsets = [data.len(), data.len() + 2];
            let name = "model.layers.6.mlp.up_proj.weight";
            header[name] = json!({ "dtype": "BF16", "shape": [1], "data_offsets": offsets });
            data.extend([0, 0]);
            if in_index {
                weight_map[name] = shard.clone().into();
            }
        });
        differs(&workshop, "`model.layers.6.mlp.up_proj.weight`");
    }
    let workshop = built(&[]);
    let name = "model.layers.0.mlp.up_proj.weight";
    edit(&workshop, |header, _, weight_map| {
        let [header, weight_map] = [header, weight_map].map(|it| it.as_object_mut().unwrap());
        let info = header.remove(name).unwrap();
        weight_map.remove(name);
        header.insert("stranger".to_owned(), info);
    });
    let run = workshop.dus(&["verify", "out"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stdout.contains(&format!("`{name}`")) && run.stdout.contains("`stranger`"));
}

/// The bytes are the same, but not what they mean.
#[test]
fn another_type_shape_or_place_is_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for (key, value) in [("dtype", json!("F16")), ("shape", json!([16, 24]))] {
        let workshop = built(&[]);
        edit(&workshop, |header, _, _| header[name][key] = value.clone());
        differs(&workshop, &format!("`{name}`"));
    }
    let workshop = built(&[]);
    edit(&workshop, |header, _, _| {
        let other = "model.layers.0.mlp.gate_proj.weight";
        let offsets = header[name]["data_offsets"].take();
        header[name]["data_offsets"] = header[other]["data_offsets"].take();
        header[other]["data_offsets"] = offsets;
    });
    let run = workshop.dus(&["verify", "out"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stdout.contains(&format!("`{name}`")), "{}", run.stdout);
    let workshop = built(&[]);
    let last = shards(&workshop).pop().unwrap();
    edit(&workshop, |_, _, weight_map| weight_map[name] = last.clone().into());
    differs(&workshop, name);
}

#[test]
fn in_the_config_are_named_by_their_keys() {
    for (key, value) in [
        ("num_hidden_layers", json!(4)),
        ("rms_norm_eps", json!(1e-6)),
        ("rope_parameters", json!({ "rope_theta": 10000.0, "rope_type": "linear" })),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("mascot", json!("yak")),
        ("sliding_window", Value::Null),
    ] {
        let workshop = built(&[]);
        raw::edit_json(&workshop.path("out/config.json"), |config| config[key] = value.clone());
        differs(&workshop, &format!("`{key}`"));
    }
    let workshop = built(&[]);
    raw::edit_json(&workshop.path("out/config.json"), |config| {
        config.as_object_mut().unwrap().remove("hidden_act");
    });
    differs(&workshop, "`hidden_act`");
    fs::write(workshop.path("out/config.json"), "{").unwrap();
    differs(&workshop, "config.json");
    fs::remove_file(workshop.path("out/config.json")).unwrap();
    differs(&workshop, "config.json");
}

#[test]
fn a_base_that_was_moved_is_missed_and_can_be_named() {
    let workshop = built(&[]);
    fs::rename(workshop.path("base"), workshop.path("moved")).unwrap();
    impossible(&workshop, &["out"], &["base"]);
    workshop.verified(&["out", "--base", "moved"]);
    fs::create_dir(workshop.path("elsewhere")).unwrap();
    let mut dus = Command::new(env!("CARGO_BIN_EXE_dus"));
    dus.args(["verify", "../out", "--base", "../moved", "--json"]);
    dus.current_dir(workshop.path("elsewhere"));
    assert_eq!(workshop.run(dus).json(0)["equal"], true);
    impossible(&workshop, &["out", "--base", "nowhere/there"], &["nowhere/there"]);
    impossible(&workshop, &["out", "--model", "x=moved"], &[]);
}

#[test]
fn from_any_folder_and_after_moving_both() {
    let workshop = built(&[]);
    fs::create_dir_all(workshop.path("a/b")).unwrap();
    for (dir, out) in [("out", "."), ("a/b", "../../out"), ("base", "../out/"), ("", "./out")] {
        let mut dus = Command::new(env!("CARGO_BIN_EXE_dus"));
        dus.args(["verify", out]).current_dir(workshop.path(dir));
        let run = workshop.run(dus);
        assert_eq!(run.code, 0, "{out} in {dir}: {}{}", run.stdout, run.stderr);
    }
    workshop.link("alias", "out");
    workshop.verified(&["alias"]);
    for name in ["base", "out"] {
        fs::rename(workshop.path(name), workshop.path("a/b").join(name)).unwrap();
    }
    workshop.verified(&["a/b/out"]);
    fs::rename(workshop.path("a/b/out"), workshop.path("out")).unwrap();
    impossible(&workshop, &["out"], &["base"]);
}

/// Another base is no difference of the build: it could not be compared.
#[test]
fn a_base_of_another_size_is_not_the_base() {
    let workshop = built(&[]);
    let shard = workshop.path("base").join(weights::shard_name(1, 2));
    let whole = RawFile::read(&shard);
    RawFile { header: format!("{}        ", whole.header), ..whole.clone() }.write(&shard);
    impossible(&workshop, &["out"], &["base", "model-00002-of-00002.safetensors"]);
    whole.write(&shard);
    workshop.verified(&["out"]);

    TinyModel { num_hidden_layers: 5, ..TinyModel::default() }.write(&workshop.path("other"));
    impossible(&workshop, &["out", "--base", "other"], &["other"]);
    TinyModel::of(Family::Gpt2).write(&workshop.path("gpt2"));
    impossible(&workshop, &["out", "--base", "gpt2"], &["gpt2"]);
    // Of the same sizes, but of other numbers.
    TinyModel { num_shards: Some(2), seed: 1, ..TinyModel::default() }
        .write(&workshop.path("twin"));
    let verdict = workshop.dus(&["verify", "out", "--base", "twin", "--json"]).json(1);
    let num_differences = verdict["differences"].as_array().unwrap().len();
    assert_eq!(verdict["num_tensors"], num_differences);
}

/// That it is another base is said also where nothing could be built of it.
#[test]
fn another_base_is_named_before_what_it_cannot_become() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.build_base(&["--dtype", "float32"]);
    let says = ["other is not the base of this build", "hint: --base"];
    // Its weights cannot be cast.
    let quantised = json!({ "quant_method": "fp8" });
    let extra_config = vec![("quantization_config", quantised)];
    TinyModel { num_hidden_layers: 5, extra_config, ..TinyModel::default() }
        .write(&workshop.path("other"));
    impossible(&workshop, &["out", "--base", "other"], &says);
    // It has too few layers.
    fs::remove_dir_all(workshop.path("other")).unwrap();
    TinyModel { num_hidden_layers: 2, ..TinyModel::default() }.write(&workshop.path("other"));
    impossible(&workshop, &["out", "--base", "other"], &says);
}

#[test]
fn what_no_build_left_is_refused() {
    let workshop = built(&[]);
    impossible(&workshop, &["base"], &["base", "dus.json"]);
    impossible(&workshop, &["nowhere"], &["nowhere"]);
    impossible(&workshop, &["out/config.json"], &["config.json"]);
    for text in ["", "{", "[]", "{}", "{\"dus\": 1}", "\u{0}"] {
        fs::write(workshop.path("out/dus.json"), text).unwrap();
        impossible(&workshop, &["out"], &["dus.json"]);
    }
    fs::remove_file(workshop.path("out/dus.json")).unwrap();
    impossible(&workshop, &["out"], &["dus.json"]);
}

/// The plan in `dus.json` is what is compared with.
#[test]
fn another_plan_gives_other_layers() {
    let workshop = built(&[]);
    raw::edit_json(&workshop.path("out/dus.json"), |manifest| {
        assert_eq!(manifest["recipe"]["layers"], PLAN);
        manifest["recipe"]["layers"] = "0..3 + 0 + 2..4".into();
    });
    let verdict = workshop.dus(&["verify", "out", "--json"]).json(1);
    let differences = verdict["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 9, "{verdict}");
    for difference in differences {
        assert!(difference.as_str().unwrap().starts_with("`model.layers.3."), "{difference}");
    }
}
