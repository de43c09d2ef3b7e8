//! Where a GGUF file may go, and what may be replaced.

use std::fs;
use std::os::unix::fs::symlink;

use testkit::gguf::{RawGguf, TinyGguf, read};
use testkit::{Survey, TinyModel, raw};

use crate::dus::{dus_under_strace, has_strace, run, tiny_mistral};
use crate::place::{LAYERS, PLAN, Place};
use crate::proof::file;

fn place() -> Place {
    Place::with(&TinyGguf::default())
}

/// A place whose base can become a folder without a note.
fn with_tokens() -> Place {
    Place::with(&TinyGguf { has_tokens: true, ..TinyGguf::default() })
}

/// The arguments of a build to `out`.
fn to<'a>(out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["base.gguf", "--layers", PLAN, "-o", out], flags].concat()
}

#[test]
fn a_name_must_say_which_form_is_meant() {
    let place = place();
    place.refused(&to("out", &[]), &["out does not end in .gguf", "hint: ", "--to hf"]);
    place.refused(
        &to("out", &["--to", "gguf"]),
        &["out does not end in .gguf", "hint: -o NAME.gguf"],
    );
    place.refused(&to("out.safetensors", &[]), &["does not end in .gguf"]);
    place.dus(&[&["build"], &to("OUT.GGUF", &[])[..]].concat()).done();
    assert_eq!(place.names(), ["OUT.GGUF"]);
}

/// It would be taken for a file of the other form.
#[test]
fn a_folder_is_not_called_as_a_gguf_file_is() {
    let place = with_tokens();
    let named = ["a folder is to be made, and ", "out.gguf is called", "hint: -o NAME names"];
    place.refused(&to("out.gguf", &["--to", "hf"]), &named);
    place.refused(&to("out.GGUF", &["--to", "hf", "--force"]), &["out.GGUF is called"]);
    // A dot within a name says nothing.
    place.dus(&[&["build"], &to("out.gguf.d", &["--to", "hf", "-q"])[..]].concat()).done();
}

#[test]
fn an_ending_alone_is_no_name() {
    let place = place();
    TinyModel::default().write(&place.path("folder"));
    for out in [".gguf", "new/.GGUF"] {
        let says = [out, " has nothing before its ending", "hint: ", "-o NAME.gguf"];
        place.refused(&to(out, &[]), &says);
        place.refused(&to(out, &["--to", "gguf"]), &says);
        place.refused(&["folder", "--layers", PLAN, "-o", out], &[out, "a folder is to be made"]);
    }
}

/// What would be ignored is refused, whether it is a flag or a key of the recipe.
#[test]
fn a_gguf_file_has_no_shards() {
    let place = place();
    TinyModel::default().write(&place.path("folder"));
    let recipe = format!("base = \"folder\"\nlayers = \"{PLAN}\"\nmax_shard_size = \"5GB\"\n");
    fs::write(place.path("recipe.toml"), recipe).unwrap();
    let refused = |args: &[&str], asked: &str| {
        place.refused(args, &[asked, "a GGUF file is to be written", "hint: leave it out"]);
    };
    refused(&to("out.gguf", &["--max-shard-size", "5GB"]), "`max_shard_size`");
    refused(&to("out.gguf", &["--shard-layout", "source"]), "`--shard-layout source`");
    refused(&["recipe.toml", "-o", "out.gguf"], "`max_shard_size`");
    // The other form takes both, and the default is no word about shards.
    let folder = ["build", "recipe.toml", "--shard-layout", "source", "-q", "-o", "out"];
    place.dus(&folder).done();
    place
        .dus(&[&["build"], &to("out.gguf", &["--shard-layout", "size", "-q"])[..]].concat())
        .done();
    let manifest: serde_json::Value =
        serde_json::from_str(place.built().text("dus.manifest")).unwrap();
    assert_eq!(manifest["recipe"].get("max_shard_size"), None);
    place.verified(&["out.gguf"]);
}

#[test]
fn folders_above_are_made_and_the_base_may_lie_beside() {
    let place = place();
    let base = TinyGguf::default().read();
    for out in ["beside.gguf", "new/folders/out.gguf", "new/./other/../other/out.gguf"] {
        place.dus(&[&["build"], &to(out, &["-q"])[..]].concat()).done();
        place.verified(&[out]);
        let found = read(&place.path(out));
        assert_eq!(found.tensors.len(), base.tensors.len() + 18);
    }
    assert_eq!(place.names(), ["beside.gguf", "new"]);
    assert_eq!(crate::dus::names(&place.path("new")), ["folders", "other"]);
}

#[test]
fn what_no_build_left_is_not_replaced() {
    let place = place();
    let foreign = TinyGguf { seed: 1, ..TinyGguf::default() }.file().bytes();
    for content in [&b"mine"[..], b"", b"GGUF", &foreign] {
        fs::write(place.path("out.gguf"), content).unwrap();
        for flags in [&[][..], &["--force"]] {
            place.refused(&to("out.gguf", flags), &["out.gguf exists", "no build left it"]);
        }
    }
    // Nor is a file of another kind opened for a look.
    fs::remove_file(place.path("out.gguf")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.path("out.gguf")).status();
    assert!(made.unwrap().success());
    place.refused(&to("out.gguf", &["--force"]), &["out.gguf exists"]);
}

#[test]
fn an_earlier_build_is_replaced_by_force_only() {
    let place = place();
    place.build_by("stack(2)", &[]);
    place.refused(&to("out.gguf", &[]), &["out.gguf exists", "hint: --force"]);
    place.build(&[]);
    place.check_built(&TinyGguf::default().read(), &LAYERS);
    assert_eq!(place.names(), ["out.gguf"]);

    // One that was cut short, as by a disk that was full, is still known by its keys.
    let bytes = fs::read(place.path("out.gguf")).unwrap();
    fs::write(place.path("out.gguf"), &bytes[..bytes.len() / 2]).unwrap();
    place.refused(&to("out.gguf", &[]), &["out.gguf exists", "hint: --force"]);
    place.build(&[]);
    place.check_built(&TinyGguf::default().read(), &LAYERS);
}

/// Tools that quantise or edit a file copy keys that they do not know, the manifest among them.
#[test]
fn what_was_made_of_a_build_is_not_replaced() {
    let spoilings: [fn(&mut RawGguf); 5] = [
        |file| {
            // F16: two bytes an element.
            let tensor = file.tensor("blk.1.ffn_down.weight");
            let num_elements: u64 = tensor.dims.iter().product();
            (tensor.type_id, tensor.bytes) = (1, vec![0; num_elements as usize * 2]);
        },
        |file| {
            let tensor = file.tensor("blk.1.ffn_down.weight");
            tensor.dims = vec![tensor.dims.iter().product()];
        },
        |file| file.tensor("blk.1.ffn_down.weight").name = b"blk.1.ffn_down.lora".to_vec(),
        |file| drop(file.tensors.pop()),
        |file| file.remove("dus.tensors"),
    ];
    for spoil in spoilings {
        let place = place();
        place.build(&[]);
        let mut file = file(&place);
        spoil(&mut file);
        file.write(&place.path("out.gguf"));
        for flags in [&[][..], &["--force"]] {
            let says = ["out.gguf exists, and is no longer what a build left", "hint: remove it"];
            place.refused(&to("out.gguf", flags), &says);
        }
    }
    let place = place();
    place.build(&[]);
    // Written anew without a change, it still is one.
    file(&place).write(&place.path("out.gguf"));
    place.build(&[]);
}

/// The frequencies of llama3's positions stand in the file as one more tensor.
#[test]
fn a_build_with_a_setting_as_a_tensor_is_replaced_by_force() {
    let place = Place::empty();
    fs::create_dir(place.path("base")).unwrap();
    for entry in tiny_mistral().read_dir().unwrap() {
        let file = entry.unwrap();
        symlink(file.path(), place.path("base").join(file.file_name())).unwrap();
    }
    let mut config = raw::read_json(&place.path("base/config.json"));
    config["model_type"] = "llama".into();
    config["sliding_window"] = serde_json::Value::Null;
    config["rope_parameters"] = serde_json::json!({
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
    });
    fs::remove_file(place.path("base/config.json")).unwrap();
    raw::write_json(&place.path("base/config.json"), &config);
    let build = ["build", "base", "--layers", "0..2", "-q", "-o", "out.gguf", "--force"];
    place.dus(&build).done();
    assert!(place.built().tensors.contains_key("rope_freqs.weight"));
    place.dus(&build).done();
}

/// The build is the base of another with the same name.
#[test]
fn an_output_that_is_the_base() {
    let place = place();
    place.build(&[]);
    fs::rename(place.path("out.gguf"), place.path("base.gguf")).unwrap();
    symlink("base.gguf", place.path("link.gguf")).unwrap();
    for out in ["base.gguf", "./base.gguf", "link.gguf"] {
        for flags in [&[][..], &["--force"]] {
            place.refused(&to(out, flags), &["base.gguf is the base"]);
        }
    }
    let through = ["link.gguf", "--layers", PLAN, "-o", "base.gguf", "--force"];
    place.refused(&through, &["base.gguf is the base"]);
}

#[test]
fn an_output_that_is_a_part_of_the_base() {
    let place = Place::empty();
    let parts = TinyGguf::default().file().write_parts(place.dir(), "base", 3);
    let base = parts[0].display().to_string();
    for part in &parts {
        let part = part.display().to_string();
        let args = [&base, "--layers", PLAN, "-o", &part, "--force"];
        place.refused(&args, &["the base"]);
    }
}

#[test]
fn an_output_below_the_base() {
    let place = place();
    place.refused(&to("base.gguf/out.gguf", &[]), &["base.gguf"]);
}

#[test]
fn a_folder_at_the_output() {
    let place = place();
    fs::create_dir(place.path("out.gguf")).unwrap();
    for flags in [&[][..], &["--force"]] {
        place.refused(&to("out.gguf", flags), &["out.gguf is a folder"]);
    }
    fs::write(place.path("out.gguf/notes.txt"), "mine").unwrap();
    place.refused(&to("out.gguf", &["--force"]), &["out.gguf is a folder"]);
    // Also one that a build left.
    fs::write(place.path("out.gguf/dus.json"), "{}").unwrap();
    place.refused(&to("out.gguf", &["--force"]), &["out.gguf"]);
}

/// A build in the other form is not what goes there.
#[test]
fn a_gguf_file_where_a_folder_is_to_go() {
    let place = with_tokens();
    place.build(&[]);
    fs::rename(place.path("out.gguf"), place.path("out")).unwrap();
    let args = to("out", &["--to", "hf", "--force"]);
    place.refused(&args, &["out exists and is not a folder"]);
}

#[test]
fn dead_links_and_links_to_builds() {
    let place = place();
    symlink("nowhere.gguf", place.path("out.gguf")).unwrap();
    place.refused(&to("out.gguf", &[]), &["out.gguf"]);
    fs::remove_file(place.path("out.gguf")).unwrap();

    fs::create_dir(place.path("far")).unwrap();
    place.dus(&[&["build"], &to("far/away.gguf", &["-q"])[..]].concat()).done();
    symlink("far/away.gguf", place.path("out.gguf")).unwrap();
    place.build_by("stack(2)", &[]);
    assert!(place.path("out.gguf").is_symlink() && !place.path("far/away.gguf").is_symlink());
    place.check_built(&TinyGguf::default().read(), &[0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!(crate::dus::names(&place.path("far")), ["away.gguf"]);
}

/// Until the new file stands, and whenever it cannot, the old one does.
#[test]
fn an_earlier_build_stays_when_the_new_one_fails() {
    if !has_strace() {
        return;
    }
    let base = TinyGguf::default().read();
    for inject in [
        "ftruncate:error=ENOSPC",
        "pwrite64:error=ENOSPC:when=1",
        "pwrite64:error=EIO:when=3",
        "fsync,fdatasync:error=EIO:when=1",
        "fsync,fdatasync:error=EIO:when=2",
        "?rename,?renameat,?renameat2:error=EIO",
        "?rename,?renameat,?renameat2:error=EIO:signal=KILL",
    ] {
        for has_old in [true, false] {
            let place = place();
            if has_old {
                place.build_by("stack(2)", &[]);
            }
            let before = Survey::of(place.dir());
            let calls = format!("trace={}", inject.split(':').next().unwrap());
            let strace = ["-e", &calls, "-e", &format!("inject={inject}")];
            let args = [&["build"], &to("out.gguf", &["--force", "--copy", "stream"])[..]].concat();
            let said = run(dus_under_strace(place.dir(), &strace), &args);
            assert_ne!(said.code, Some(0), "{inject}: {said:#?}");
            if inject.contains("KILL") {
                // What is left does not look finished.
                let old: &[&str] = if has_old { &["out.gguf"] } else { &[] };
                assert_eq!(place.names(), [&[".out.gguf.dus-partial"], old].concat());
            } else {
                assert_eq!(said.code, Some(2), "{inject}: {said:#?}");
                assert!(said.stderr.contains("cannot build out.gguf"), "{inject}: {said:#?}");
                let changes = Survey::of(place.dir()).changes_since(&before, false);
                assert_eq!(changes, "", "{inject}");
            }
            if has_old {
                place.check_built(&base, &[0, 1, 2, 3, 0, 1, 2, 3]);
            }
            place.build(&[]);
            place.check_built(&base, &LAYERS);
            assert_eq!(place.names(), ["out.gguf"]);
        }
    }
}

/// What comes to stand there while a build is under way is not replaced, even by `--force`.
#[test]
fn a_file_that_came_meanwhile() {
    if !has_strace() {
        return;
    }
    let place = place();
    let strace = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=600000:when=1"];
    let mut command = dus_under_strace(place.dir(), &strace);
    command.args([&["build"], &to("out.gguf", &["--force", "-q"])[..]].concat());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !place.path(".out.gguf.dus-partial/model.gguf").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was seen");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    fs::write(place.path("out.gguf"), "mine").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("out.gguf cannot be created"), "{stderr}");
    assert_eq!(fs::read(place.path("out.gguf")).unwrap(), b"mine");
    assert_eq!(place.names(), ["out.gguf"]);
}

/// The card of a folder that was made of a GGUF file says so in its recipe.
#[test]
fn the_card_of_a_folder_makes_it_again() {
    let place = Place::empty();
    let model = tiny_mistral().display().to_string();
    let to = |base, out, form| ["build", base, "--layers", "0..2", "--to", form, "-o", out];
    place.dus(&to(&model, "base.gguf", "gguf")).done();
    place.dus(&to("base.gguf", "out", "hf")).done();
    let card = fs::read_to_string(place.path("out/README.md")).unwrap();
    let recipe = card.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    fs::write(place.path("out/recipe.toml"), recipe).unwrap();
    place.dus(&["build", "out/recipe.toml", "-o", "again"]).done();
    let weights = |out| fs::read(place.path(out).join("model.safetensors")).unwrap();
    assert!(weights("again") == weights("out"));
}
