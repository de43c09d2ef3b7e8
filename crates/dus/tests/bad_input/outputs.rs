//! Places where nothing may be built.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use testkit::{Survey, TinyModel};

use crate::case::Case;

/// Checks an output of which the base must be kept, with and without `--force`.
///
/// The base is what a build left, so that `--force` alone would replace it.
#[track_caller]
fn check_is_base(case: Case, how: &str) {
    fs::write(case.file("dus.json"), "{}").unwrap();
    let base = case.base().display().to_string();
    case.refused(&[how, &base]);
    case.flags(&["--force"]).refused(&[how, &base]);
}

#[test]
fn an_output_that_is_the_base() {
    let case = Case::new();
    let base = case.base();
    check_is_base(case.to(&base), " is the base");
    check_is_base(Case::new().to("base"), " is the base");
    check_is_base(Case::new().to("./base/"), " is the base");
    check_is_base(Case::new().to("base/../base"), " is the base");
    check_is_base(Case::new().to("nowhere/../base"), " is the base");
}

#[test]
fn an_output_that_is_the_base_through_a_link() {
    let case = Case::new().to("link");
    symlink("base", case.dir().join("link")).unwrap();
    check_is_base(case, " is the base");

    let case = Case::new().to("base");
    symlink("base", case.dir().join("link")).unwrap();
    let case = case.args(&["link", "--layers", "dus(1)"]);
    case.refused(&[" is the base", "link"]);
    fs::write(case.file("dus.json"), "{}").unwrap();
    case.flags(&["--force"]).refused(&[" is the base", "link"]);
}

#[test]
fn an_output_in_the_base() {
    check_is_base(Case::new().to("base/out"), " lies in the base");
    check_is_base(Case::new().to("base/deep/er/out"), " lies in the base");
    let case = Case::new().to("link/out");
    symlink("base", case.dir().join("link")).unwrap();
    check_is_base(case, " lies in the base");
}

#[test]
fn an_output_that_holds_the_base() {
    check_is_base(Case::new().to("."), " holds the base");
    let case = Case::new();
    let dir = case.dir().to_owned();
    check_is_base(case.to(dir), " holds the base");
    check_is_base(Case::new().to("/"), " holds the base");

    let case = Case::new().to("link");
    fs::write(case.dir().join("dus.json"), "{}").unwrap();
    symlink(".", case.dir().join("link")).unwrap();
    check_is_base(case, " holds the base");
}

/// The base is links to the files of an earlier build, which would be replaced under it.
#[test]
fn an_output_that_holds_a_file_of_the_base() {
    let case = Case::new();
    assert!(case.run("build", &["--quiet"]).status.success());
    let links = case.dir().join("links");
    fs::create_dir(&links).unwrap();
    for name in ["config.json", "model.safetensors"] {
        symlink(case.out().join(name), links.join(name)).unwrap();
    }
    let case = case.args(&["links", "--layers", "dus(1)", "--force"]);
    case.refused(&[&case.out().display().to_string(), " the base", "links"]);
}

#[test]
fn an_output_that_is_one_of_several_models() {
    for (out, how) in [("other", " is the base"), ("other/out", " lies in the base")] {
        let case = Case::new().to(out);
        TinyModel { seed: 1, ..TinyModel::default() }.write(&case.dir().join("other"));
        fs::write(case.dir().join("other/dus.json"), "{}").unwrap();
        let models = ["--model", "x=base", "--model", "y=other", "--layers", "x:0..3 + y:1..4"];
        let case = case.args(&models).flags(&["--force"]);
        case.refused(&[how, "other"]);
    }
}

#[test]
fn an_output_that_is_a_mount_point() {
    let device = |path: &str| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    for (path, above) in [("/dev/shm", "/dev"), ("/proc", "/")] {
        if device(path).is_none() || device(path) == device(above) {
            eprintln!("skipped: nothing is mounted at {path}");
            continue;
        }
        Case::new().to(path).refused(&[path, "mount point"]);
        Case::new().to(path).flags(&["--force"]).refused(&[path, "mount point"]);
        for dir in [path, above] {
            let names = Path::new(dir).read_dir().unwrap().map(|entry| entry.unwrap().file_name());
            let ours: Vec<_> =
                names.filter(|name| name.to_string_lossy().contains("dus-")).collect();
            assert!(ours.is_empty(), "{ours:?} in {dir}");
        }
    }
}

#[test]
fn an_output_with_files_in_it() {
    for name in ["notes.txt", ".hidden", "sub/notes.txt"] {
        let case = Case::new();
        let file = case.out().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "mine").unwrap();
        case.refused(&[&case.out().display().to_string(), "not empty"]);
    }
}

#[test]
fn an_output_that_an_earlier_build_left() {
    let case = Case::new();
    assert!(case.run("build", &["--quiet"]).status.success());
    case.refused(&[&case.out().display().to_string(), "not empty", "hint: --force"]);
    let before = Survey::of(&case.out());
    assert!(case.run("build", &["--quiet", "--force"]).status.success());
    assert_ne!(Survey::of(&case.out()), before, "--force replaces it");
}

#[test]
fn a_folder_that_no_build_left_is_not_replaced() {
    let case = Case::new();
    fs::create_dir(case.out()).unwrap();
    fs::write(case.out().join("thesis.tex"), "mine").unwrap();
    let case = case.flags(&["--force"]);
    case.refused(&[&case.out().display().to_string(), "dus.json", "--force"]);

    fs::create_dir(case.out().join("dus.json")).unwrap();
    case.refused(&[&case.out().display().to_string(), "dus.json", "--force"]);
}

#[test]
fn an_output_that_is_a_file() {
    for flags in [&[][..], &["--force"]] {
        let case = Case::new().flags(flags);
        fs::write(case.out(), "mine").unwrap();
        case.refused(&[&case.out().display().to_string(), "not a folder"]);
    }
    let case = Case::new().to("file/out");
    fs::write(case.dir().join("file"), "mine").unwrap();
    case.refused(&["file"]);
}

#[test]
fn an_output_that_is_a_dead_link() {
    let case = Case::new();
    symlink("nowhere", case.out()).unwrap();
    case.refused(&[&case.out().display().to_string()]);
}
