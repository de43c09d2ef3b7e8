//! ^C, SIGTERM and SIGKILL.

use std::fs;
use std::path::Path;
use std::process::Child;

use testkit::Survey;

use crate::dus::{dus, run};
use crate::under_way::{BUILD, UnderWay, check_names, with_large_base};

/// Stops a build to `out`, which lies in no folder yet that is `new`, and checks what it leaves.
#[track_caller]
fn check_stopped(signal: &str, code: i32, out: &str) {
    let dir = with_large_base();
    let base = Survey::of(&dir.path().join("base"));
    let before = Survey::of(dir.path());
    let path = dir.path().join(out);
    let name = path.file_name().unwrap().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.dus-partial"));

    let args = [&BUILD[..], &["-o", out]].concat();
    let said = UnderWay::build(dus(dir.path()), &args, &partial).send(signal).end();
    assert_eq!(said.code, Some(code), "{said:#?}");
    assert_eq!((&*said.stdout, &*said.stderr), ("", ""), "{said:#?}");
    assert_eq!(Survey::of(&dir.path().join("base")).changes_since(&base, true), "");
    assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "");
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    check_stopped("INT", 130, "out");
    check_stopped("INT", 130, "new/folders/out");
}

#[test]
fn a_terminated_build_leaves_nothing() {
    check_stopped("TERM", 143, "out");
    check_stopped("TERM", 143, "new/folders/out");
}

/// Folders that had been there stay, also where they are empty.
#[test]
fn folders_that_were_there_stay() {
    let dir = with_large_base();
    fs::create_dir_all(dir.path().join("old/empty")).unwrap();
    let before = Survey::of(dir.path());
    let args = [&BUILD[..], &["-o", "old/new/out"]].concat();
    let partial = dir.path().join("old/new/.out.dus-partial");
    let said = UnderWay::build(dus(dir.path()), &args, &partial).send("INT").end();
    assert_eq!(said.code, Some(130), "{said:#?}");
    assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "");

    fs::create_dir(dir.path().join("out")).unwrap();
    let before = Survey::of(dir.path());
    let args = [&BUILD[..], &["-o", "out"]].concat();
    let partial = dir.path().join(".out.dus-partial");
    let said = UnderWay::build(dus(dir.path()), &args, &partial).send("TERM").end();
    assert_eq!(said.code, Some(143), "{said:#?}");
    assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "");
}

/// What computes is stopped as what copies is.
#[test]
fn a_cast_can_be_interrupted() {
    let dir = with_large_base();
    let file = dir.path().join("base/model.safetensors");
    let bytes = fs::metadata(&file).unwrap().len();
    testkit::raw::edit_json(&dir.path().join("base/config.json"), |config| {
        config["torch_dtype"] = "bfloat16".into();
    });
    // The same bytes as numbers: half as many elements of twice the width, in a header of one length.
    let header = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(header[8..8 + length].to_vec()).unwrap();
    let layer = crate::under_way::LAYER_BYTES;
    let text = text.replace("\"U8\"", "\"BF16\"");
    let text = text.replace(&format!("[{layer}]"), &format!("[{}]", layer / 2));
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text.as_bytes());
    fs::write(&file, &header).unwrap();
    let grown = bytes - (8 + length as u64) + header.len() as u64;
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(grown).unwrap();

    let before = Survey::of(dir.path());
    let args = [&BUILD[..], &["--dtype", "float32", "-o", "out"]].concat();
    let partial = dir.path().join(".out.dus-partial");
    let said = UnderWay::build(dus(dir.path()), &args, &partial).send("INT").end();
    assert_eq!(said.code, Some(130), "{said:#?}");
    assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "");
}

#[test]
fn a_killed_build_leaves_only_what_does_not_look_finished() {
    let dir = with_large_base();
    let partial = dir.path().join(".out.dus-partial");
    let args = [&BUILD[..], &["-o", "out"]].concat();
    let said = UnderWay::build(dus(dir.path()), &args, &partial).send("KILL").end();
    assert_eq!(said.code, None, "{said:#?}");
    check_names(dir.path(), &[".out.dus-partial", "base"]);
    let model = partial.join("model");
    assert!(!model.join("config.json").exists() && !model.join("dus.json").exists());
    for left in [".out.dus-partial", ".out.dus-partial/model"] {
        run(dus(dir.path()), &["verify", left]).refused(&["not a build"]);
    }
    run(dus(dir.path()), &["verify", "out"]).refused(&["out"]);

    // The plan does not mind, and the next build removes it.
    run(dus(dir.path()), &["plan", "base", "--layers", "dus(1)", "-o", "out"]).done();
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-o", "out"]).done();
    check_names(dir.path(), &["base", "out"]);
    run(dus(dir.path()), &["verify", "out"]).done();
}

/// Whether the process has a file of the folder `dir` open.
fn has_open(child: &Child, dir: &Path) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", child.id())) else { return false };
    let targets = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    targets.into_iter().any(|target| target.starts_with(dir))
}

#[test]
fn an_interrupted_verify_says_neither_yes_nor_no() {
    if !Path::new("/proc/self/fd").exists() {
        eprintln!("skipped: there is no /proc");
        return;
    }
    let dir = with_large_base();
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-q", "-o", "out"]).done();
    let before = Survey::of(dir.path());
    let out = dir.path().join("out").canonicalize().unwrap();
    for (args, signal, code) in [
        (&["verify", "out"][..], "INT", 130),
        (&["verify", "out", "--json"], "TERM", 143),
        (&["inspect", "out", "--duplicates"], "INT", 130),
    ] {
        let under_way = UnderWay::start(dus(dir.path()), args, |child| has_open(child, &out));
        let said = under_way.send(signal).end();
        assert_eq!(said.code, Some(code), "{said:#?}");
        assert_eq!((&*said.stdout, &*said.stderr), ("", ""), "{said:#?}");
    }
    assert_eq!(Survey::of(dir.path()).changes_since(&before, true), "");
}
