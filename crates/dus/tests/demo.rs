//! `dus demo`, in a copy of what it needs of the project.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "command_line/dus.rs"]
mod dus;

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use testkit::{Survey, raw, weights};

use crate::dus::{Said, assert_spliced, dus, names, project, run, tiny_mistral};

/// The example and its recipe, as they lie in the project.
fn skeleton() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let example = dir.path().join("examples/tiny-mistral-32l");
    fs::create_dir_all(&example).unwrap();
    for name in names(&tiny_mistral()) {
        fs::copy(tiny_mistral().join(&name), example.join(&name)).unwrap();
    }
    let recipe = Path::new("configs/tiny-solar.toml");
    fs::create_dir(dir.path().join("configs")).unwrap();
    fs::copy(project().join(recipe), dir.path().join(recipe)).unwrap();
    dir
}

/// Runs the demo in `cwd` and checks what it builds at `out`, seen from there, and what it says.
#[track_caller]
fn check_demo(cwd: &Path, flags: &[&str], out: &str) -> Said {
    let said = run(dus(cwd), &[&["demo"], flags].concat()).done();
    let path = cwd.join(out);
    assert_spliced(&path, &weights::read(&tiny_mistral()), (0..24).chain(8..32));
    assert_eq!(raw::read_json(&path.join("config.json"))["num_hidden_layers"], 48);
    run(dus(cwd), &["verify", out]).done();

    assert_eq!(said.stderr, "");
    for part in
        ["0..24 + 8..32", "seam: 23 meets 8", "48 layers, 8,794,240 parameters", "all 435 tensors"]
    {
        assert!(said.stdout.contains(part), "{part:?} is missing: {said:#?}");
    }
    said
}

#[test]
fn it_builds_and_proves_a_model_of_48_layers() {
    let dir = skeleton();
    let before = Survey::of(&dir.path().join("examples"));
    check_demo(dir.path(), &[], "tiny-solar");
    assert_eq!(names(dir.path()), ["configs", "examples", "tiny-solar"]);
    assert_eq!(Survey::of(&dir.path().join("examples")).changes_since(&before, true), "");
}

/// The commands that it names do what it says they do, where they are typed.
#[test]
fn it_says_what_to_do_next() {
    let dir = skeleton();
    fs::create_dir(dir.path().join("deep")).unwrap();
    for cwd in [dir.path().to_owned(), dir.path().join("deep")] {
        let said = check_demo(&cwd, &[], "tiny-solar");
        let (_, next) = said.stdout.split_once("\nNext:\n").expect("something comes next");
        let program = concat!(env!("CARGO_BIN_EXE_dus"), " ");
        let commands: Vec<&str> =
            next.lines().filter_map(|line| line.trim().strip_prefix(program)).collect();
        assert!(commands.len() >= 2, "{next}");
        for command in commands {
            // Behind the command stands what it is for.
            let (command, purpose) = command.split_once("    ").unwrap();
            assert!(!purpose.is_empty());
            let mut shell = std::process::Command::new("sh");
            let program = env!("CARGO_BIN_EXE_dus");
            shell.args(["-c", &format!("{program} {command}")]).current_dir(&cwd);
            let said = run(shell, &[]).done();
            assert!(said.stdout.contains("layers"), "{command}: {said:#?}");
        }
    }
}

#[test]
fn it_runs_in_a_folder_of_the_project() {
    let dir = skeleton();
    let deep = dir.path().join("some/folder");
    fs::create_dir_all(&deep).unwrap();
    check_demo(&deep, &[], "tiny-solar");
    assert_eq!(names(&deep), ["tiny-solar"]);
    assert_eq!(names(dir.path()), ["configs", "examples", "some"]);
    check_demo(&dir.path().join("examples/tiny-mistral-32l"), &["-o", "../../out"], "../../out");
}

#[test]
fn the_folder_can_be_chosen() {
    let dir = skeleton();
    check_demo(dir.path(), &["-o", "new/folder"], "new/folder");
    check_demo(dir.path(), &["--output", "other"], "other");
    assert_eq!(names(dir.path()), ["configs", "examples", "new", "other"]);
}

#[test]
fn an_earlier_demo_is_replaced() {
    let dir = skeleton();
    check_demo(dir.path(), &[], "tiny-solar");
    fs::write(dir.path().join("tiny-solar/model.safetensors"), "spoilt").unwrap();
    fs::write(dir.path().join("tiny-solar/notes.txt"), "of the earlier").unwrap();
    check_demo(dir.path(), &[], "tiny-solar");
    assert!(!dir.path().join("tiny-solar/notes.txt").exists());
    assert_eq!(names(dir.path()), ["configs", "examples", "tiny-solar"]);
}

#[test]
fn what_no_build_left_is_not_replaced() {
    let dir = skeleton();
    fs::create_dir(dir.path().join("tiny-solar")).unwrap();
    fs::write(dir.path().join("tiny-solar/thesis.tex"), "mine").unwrap();
    let before = Survey::of(dir.path());
    for (flags, out) in [
        (&[][..], "tiny-solar"),
        (&["-o", "tiny-solar"], "tiny-solar"),
        (&["-o", "examples"], "examples"),
        (&["-o", "examples/tiny-mistral-32l"], "tiny-mistral-32l"),
        (&["-o", "."], &dir.path().canonicalize().unwrap().display().to_string()),
        (&["-o", "configs/tiny-solar.toml"], "tiny-solar.toml"),
    ] {
        let said = run(dus(dir.path()), &[&["demo"], flags].concat());
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(said.stderr.starts_with("error: cannot run the demo\n"), "{said:#?}");
        assert!(said.stderr.contains(out), "{said:#?}");
        assert_eq!(Survey::of(dir.path()).changes_since(&before, true), "", "{flags:?}");
    }
    // An empty folder is fine.
    fs::create_dir(dir.path().join("empty")).unwrap();
    check_demo(dir.path(), &["-o", "empty"], "empty");
}

#[test]
fn outside_of_a_project_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let refused = || {
        let here = dir.path().canonicalize().unwrap().display().to_string();
        let said = run(dus(dir.path()), &["demo"]);
        said.refused(&["cannot run the demo", "examples/tiny-mistral-32l", &here, "hint: "]);
    };
    refused();
    assert_eq!(names(dir.path()), [""; 0]);
    // An example without its recipe is no project either.
    fs::create_dir_all(dir.path().join("examples/tiny-mistral-32l")).unwrap();
    refused();
}

/// Another build is nobody's demo, be it of the same plan or of the same base.
#[test]
fn another_build_is_not_replaced() {
    for (base, layers) in [("other", "dus(8)"), ("examples/tiny-mistral-32l", "repeat(12, 28)")] {
        let dir = skeleton();
        let model = testkit::TinyModel { num_hidden_layers: 32, ..Default::default() };
        model.write(&dir.path().join("other"));
        run(dus(dir.path()), &["build", base, "--layers", layers, "-q", "-o", "mine"]).done();
        let before = Survey::of(&dir.path().join("mine"));
        let said = run(dus(dir.path()), &["demo", "-o", "mine"]);
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert_eq!(Survey::of(&dir.path().join("mine")).changes_since(&before, true), "");
    }
}
