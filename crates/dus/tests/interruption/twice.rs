//! Several builds to one output at once: one wins, and the others say so.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use testkit::{Survey, TinyModel};

use crate::dus::{Said, assert_spliced, dus, dus_under_strace, has_strace, run, said};
use crate::under_way::{BUILD, UnderWay, check_names, with_large_base};

/// Plans of six layers of four: builds of them have files of the same names and lengths.
const PLANS: [(&str, [usize; 6]); 3] = [
    ("0..3 + 1..4", [0, 1, 2, 1, 2, 3]),
    ("0..4 + 2..4", [0, 1, 2, 3, 2, 3]),
    ("0..2 + 0..4", [0, 1, 0, 1, 2, 3]),
];

fn base() -> TinyModel {
    TinyModel { num_shards: Some(2), ..TinyModel::default() }
}

fn with_base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    base().write(&dir.path().join("base"));
    dir
}

fn args(plan: usize, force: bool) -> Vec<&'static str> {
    let mut args = vec!["build", "base", "--layers", PLANS[plan].0, "-q", "-o", "out"];
    args.extend(["--max-shard-size", "8kB"]);
    args.extend(force.then_some("--force"));
    args
}

fn spawn(mut command: Command, args: &[&str]) -> Child {
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Asserts that what stands at the output is whole and of one plan, of a build that was done, that
/// nothing else is left, and that who was not done says why.
#[track_caller]
fn check_one_won(dir: &Path, said: &[(usize, Said)]) {
    let done: Vec<usize> =
        said.iter().filter(|(_, said)| said.code == Some(0)).map(|(plan, _)| *plan).collect();
    assert!(!done.is_empty(), "none was done: {said:#?}");
    check_names(dir, &["base", "out"]);
    let manifest = testkit::raw::read_json(&dir.join("out/dus.json"));
    let written = manifest["recipe"]["layers"].as_str().unwrap();
    let winner = PLANS.iter().position(|(plan, _)| *plan == written).unwrap();
    assert!(done.contains(&winner), "{written} was not done: {said:#?}");
    assert_spliced(&dir.join("out"), &base().tensors_by_name(), PLANS[winner].1);
    run(dus(dir), &["verify", "out"]).done();
    for (_, said) in said.iter().filter(|(_, said)| said.code != Some(0)) {
        assert_eq!(said.code, Some(2), "{said:#?}");
        let reasons = ["another build is writing", "is not empty", "cannot be replaced"];
        assert!(reasons.iter().any(|reason| said.stderr.contains(reason)), "{said:#?}");
    }
}

/// Small builds all at once, round after round: each time another thing happens at once.
#[test]
fn one_wins_and_the_others_say_so() {
    for round in 0..20 {
        let dir = with_base();
        let force = round % 2 == 1;
        if round % 4 > 1 {
            // What a killed build left is removed by one of them only.
            let model = dir.path().join(".out.dus-partial/model");
            fs::create_dir_all(&model).unwrap();
            fs::write(model.join("model.safetensors"), "half").unwrap();
        }
        let args = [0, 1, 2].map(|plan| args(plan, force));
        let children = [0, 1, 2].map(|plan| spawn(dus(dir.path()), &args[plan]));
        let mut ended = Vec::new();
        for (plan, child) in children.into_iter().enumerate() {
            ended.push((plan, said(&args[plan], &child.wait_with_output().unwrap())));
        }
        check_one_won(dir.path(), &ended);
    }
}

#[test]
fn who_comes_later_is_told_at_once() {
    let dir = with_large_base();
    let first = [&BUILD[..], &["-o", "out"]].concat();
    let partial = dir.path().join(".out.dus-partial");
    let under_way = UnderWay::build(dus(dir.path()), &first, &partial);
    let before = Survey::of(&partial);
    for flags in [&[][..], &["--force"]] {
        let later = [&["build", "base", "--layers", "stack(2)", "-o", "out"], flags].concat();
        run(dus(dir.path()), &later).refused(&["another build is writing", ".out.dus-partial"]);
    }
    // Names only: the first build goes on writing.
    let new = Survey::of(&partial).changes_since(&before, false);
    assert!(!new.contains("is new") && !new.contains("is gone"), "{new}");
    let said = under_way.send("INT").end();
    assert_eq!(said.code, Some(130), "{said:#?}");
    check_names(dir.path(), &["base"]);
}

/// A build is held up between opening its folder and locking it, for 400 ms, while another comes by;
/// that one is held up too, at `second`, before it ends. Whichever gets the lock, the other must not
/// touch its files.
#[track_caller]
fn check_held_up_at_the_lock(left_by_a_killed_build: bool, first: &[&str], second: &str) {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let partial = dir.path().join(".out.dus-partial");
    if left_by_a_killed_build {
        fs::create_dir_all(partial.join("model")).unwrap();
        fs::write(partial.join("model/model.safetensors"), "half").unwrap();
    }
    let args = [0, 1].map(|plan| [&args(plan, false)[..], &["--copy", "kernel"]].concat());
    let mut at_lock = vec!["-e", "trace=flock,copy_file_range"];
    at_lock.extend(["-e", "inject=flock:delay_enter=400000:when=1"]);
    at_lock.extend(first);
    let second = ["-e", "trace=fsync,copy_file_range", "-e", second];
    let first = spawn(dus_under_strace(dir.path(), &at_lock), &args[0]);
    // By now, or a little later, it waits at the lock.
    std::thread::sleep(std::time::Duration::from_millis(150));
    let second = spawn(dus_under_strace(dir.path(), &second), &args[1]);
    let ended = [
        (1, said(&args[1], &second.wait_with_output().unwrap())),
        (0, said(&args[0], &first.wait_with_output().unwrap())),
    ];
    check_one_won(dir.path(), &ended);
}

#[test]
fn held_up_at_the_lock_of_a_new_folder() {
    check_held_up_at_the_lock(false, &[], "inject=fsync:delay_enter=800000:when=1");
}

#[test]
fn held_up_at_the_lock_of_a_folder_that_a_killed_build_left() {
    check_held_up_at_the_lock(true, &[], "inject=fsync:delay_enter=800000:when=1");
}

/// Both have made their files and filled none: neither may end with those of the other.
#[test]
fn held_up_at_the_lock_and_before_the_first_byte() {
    let first = ["-e", "inject=copy_file_range:delay_enter=1600000:when=1"];
    let second = "inject=copy_file_range:delay_enter=800000:when=1";
    check_held_up_at_the_lock(true, &first, second);
}

/// The earlier build is being removed, for 200 ms a file, while another build comes by: that one may
/// not take its folder for what a killed build left.
#[test]
fn held_up_while_the_earlier_build_is_removed() {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    run(dus(dir.path()), &args(2, false)).done();
    let earlier = fs::canonicalize(dir.path().join("out")).unwrap();
    let written = |plan: &str| {
        let manifest = fs::read_to_string(earlier.join("dus.json")).unwrap_or_default();
        manifest.contains(plan)
    };
    let slow = ["-e", "trace=unlinkat,unlink", "-e", "inject=unlinkat,unlink:delay_enter=200000"];
    let args = [0, 1].map(|plan| args(plan, true));
    let mut first = spawn(dus_under_strace(dir.path(), &slow), &args[0]);
    while !written(PLANS[0].0) {
        assert!(first.try_wait().unwrap().is_none(), "the first build ended without a change");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let later = said(&args[1], &spawn(dus(dir.path()), &args[1]).wait_with_output().unwrap());
    later.refused(&["another build is writing"]);
    let ended = [(0, said(&args[0], &first.wait_with_output().unwrap()))];
    check_one_won(dir.path(), &ended);
}
