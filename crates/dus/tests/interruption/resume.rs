//! `--resume`: what is whole is kept, what is not is done, and the result is that of one build.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{Survey, TinyModel};

use crate::dus::{Said, dus, dus_under_strace, has_strace, names, run};
use crate::under_way::{BUILD, UnderWay, check_names, with_large_base};

const JOURNAL: &str = ".out.dus-partial/.dus-journal";

fn base() -> TinyModel {
    TinyModel { num_shards: Some(2), ..TinyModel::default() }
}

fn with_base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    base().write(&dir.path().join("base"));
    dir
}

/// A build into several shards, with more flags.
fn args<'a>(out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let always = ["build", "base", "--max-shard-size", "8kB", "--json", "-o", out];
    let layers: &[&str] = if flags.contains(&"--layers") { &[] } else { &["--layers", "dus(1)"] };
    [&always[..], layers, flags].concat()
}

/// The strace flags that do `what` to a system call, as in `pwrite64:signal=KILL:when=3`.
fn inject(what: &str) -> [String; 4] {
    let call = what.split(':').next().unwrap();
    ["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), format!("inject={what}")]
}

fn run_injected(dir: &Path, what: &str, args: &[&str]) -> Said {
    let strace = inject(what);
    run(dus_under_strace(dir, &strace.each_ref().map(String::as_str)), args)
}

/// The stretches in the journal: shard, begin, end.
fn stretches(dir: &Path) -> Vec<[u64; 3]> {
    let journal = fs::read(dir.join(JOURNAL)).unwrap_or_default();
    let journal = String::from_utf8_lossy(&journal).into_owned();
    let whole = journal.split_inclusive('\n').skip(1).filter(|line| line.ends_with('\n'));
    let number = |word: &str| word.parse().unwrap();
    let words = whole.map(|line| line.split(' ').take(3).map(number).collect::<Vec<u64>>());
    words.map(|words| words.try_into().unwrap()).collect()
}

fn finished_bytes(dir: &Path) -> u64 {
    stretches(dir).iter().map(|[_, begin, end]| end - begin).sum()
}

fn bytes(built: &Value, key: &str) -> u64 {
    built[key].as_u64().unwrap_or_else(|| panic!("{key} in {built:#}"))
}

/// Asserts that all bytes are accounted for, and returns how many of them were kept.
#[track_caller]
fn kept(built: &Value) -> u64 {
    let ways = ["shared_bytes", "kernel_bytes", "streamed_bytes", "computed_bytes"];
    let moved: u64 = ways.iter().map(|way| bytes(built, way)).sum();
    let kept = bytes(built, "resumed_bytes");
    assert_eq!(moved + kept, bytes(built, "bytes"), "{built:#}");
    kept
}

/// Asserts that two builds are the same, but for the name on the card.
#[track_caller]
fn check_same(out: &Path, whole: &Path) {
    if whole.is_file() {
        assert!(fs::read(out).unwrap() == fs::read(whole).unwrap(), "the files differ");
        return;
    }
    assert_eq!(names(out), names(whole));
    for name in names(whole).iter().filter(|name| *name != "README.md") {
        if !whole.join(name).is_dir() {
            let same = fs::read(out.join(name)).unwrap() == fs::read(whole.join(name)).unwrap();
            assert!(same, "{name} differs");
        }
    }
}

/// Kills a build at the `when`th of the calls `call` of a thread; `false` if it got through.
#[track_caller]
pub(crate) fn kill(dir: &Path, call: &str, when: usize, args: &[&str]) -> bool {
    let said = run_injected(dir, &format!("{call}:signal=KILL:when={when}"), args);
    assert!(matches!(said.code, None | Some(0 | 137)), "{said:#?}");
    said.code != Some(0)
}

/// Builds with `flags`, kills it at each call of a kind in turn, and goes on with it.
#[track_caller]
fn check_killed(call: &str, flags: &[&str]) {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    let whole = run(dus(dir), &args("whole", flags)).done().json();
    let mut some_were_kept = false;
    for when in 1.. {
        if !kill(dir, call, when, &args("out", flags)) {
            assert!(when > 3, "{when} {call} are too few to be sure");
            break;
        }
        if dir.join("out").is_dir() || !dir.join(".out.dus-partial").is_dir() {
            // It was at its place already, or had not begun.
            run(dus(dir), &["clean", "out"]).done();
            let _ = fs::remove_dir_all(dir.join("out"));
            continue;
        }
        let finished = finished_bytes(dir);
        let built = run(dus(dir), &args("out", &[flags, &["--resume"]].concat())).done().json();
        assert_eq!(kept(&built), finished, "{call} {when}: {built:#}");
        assert_eq!(built["cast"], whole["cast"]);
        check_same(&dir.join("out"), &dir.join("whole"));
        check_names(dir, &["base", "out", "whole"]);
        some_were_kept |= finished > 0;
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
    assert!(some_were_kept);
}

#[test]
fn killed_at_any_write() {
    check_killed("pwrite64", &["--copy", "stream"]);
}

#[test]
fn killed_at_any_copy_in_the_kernel() {
    check_killed("copy_file_range", &["--copy", "kernel"]);
}

#[test]
fn killed_at_any_line_of_the_journal() {
    check_killed("write", &["--copy", "stream"]);
}

#[test]
fn killed_while_it_casts_or_makes_noise() {
    check_killed("pwrite64", &["--dtype", "float16"]);
    let noise = "dus(1){new o_proj: noise 0.1 seed=3, new down_proj: scale 0.5}";
    check_killed("pwrite64", &["--copy", "stream", "--layers", noise]);
}

#[test]
fn killed_while_it_writes_what_stands_beside_the_weights() {
    check_killed("fsync", &["--copy", "stream"]);
}

/// All is done, but nobody can see it: nothing of it is lost, whichever call was the last.
#[test]
fn killed_before_it_is_shown() {
    if !has_strace() {
        return;
    }
    let renames = "?rename,?renameat,?renameat2";
    for force in [&[][..], &["--force"]] {
        let dir = with_base();
        let dir = dir.path();
        let flags = [force, &["--copy", "stream"]].concat();
        run(dus(dir), &args("whole", &[])).done();
        if !force.is_empty() {
            run(dus(dir), &args("out", &["--layers", "stack(2)"])).done();
        }
        let what = format!("{renames}:error=EIO:signal=KILL");
        assert!(run_injected(dir, &what, &args("out", &flags)).code != Some(0));
        assert_eq!(finished_bytes(dir), all_bytes(dir));
        let plan = ["plan", "base", "--layers", "dus(1)", "--force", "-o", "out"];
        assert!(run(dus(dir), &plan).done().stderr.contains("--resume"));
        let again = args("out", &[&flags[..], &["--resume"]].concat());
        assert_eq!(kept(&run(dus(dir), &again).done().json()), all_bytes(dir));
        check_same(&dir.join("out"), &dir.join("whole"));
        check_names(dir, &["base", "out", "whole"]);
    }
}

/// The new model stands, and what was beside it was not removed yet.
#[test]
fn killed_after_it_is_shown() {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    let what = "unlink,unlinkat:error=EIO:signal=KILL";
    assert!(run_injected(dir, what, &args("out", &["--copy", "stream"])).code != Some(0));
    run(dus(dir), &["verify", "out"]).done();
    assert_eq!(names(&dir.join("out")).iter().find(|name| name.starts_with('.')), None);
    // What is left says of nothing that it could be gone on with.
    let plan = ["plan", "base", "--layers", "dus(1)", "--force", "-o", "out"];
    assert!(!run(dus(dir), &plan).done().stderr.contains("--resume"));
    run(dus(dir), &["clean", "out"]).done();
    check_names(dir, &["base", "out"]);
    run(dus(dir), &["verify", "out"]).done();
}

/// A build that was killed with much done, in `dir`, and a whole one beside it.
fn killed() -> Option<TempDir> {
    if !has_strace() {
        return None;
    }
    let dir = with_base();
    run(dus(dir.path()), &args("whole", &["--copy", "stream"])).done();
    // The first sync comes when all weights are written.
    assert!(kill(dir.path(), "fsync", 1, &args("out", &["--copy", "stream"])));
    assert_eq!(finished_bytes(dir.path()), all_bytes(dir.path()));
    Some(dir)
}

fn all_bytes(dir: &Path) -> u64 {
    let index = testkit::raw::read_json(&dir.join("whole/model.safetensors.index.json"));
    index["metadata"]["total_size"].as_u64().unwrap()
}

fn resume(dir: &Path) -> Said {
    run(dus(dir), &args("out", &["--copy", "stream", "--resume"]))
}

/// Damages what a killed build left, goes on, and checks that all but `lost` bytes were kept.
#[track_caller]
fn check_damaged(damage: impl FnOnce(&Path) -> u64) {
    let Some(dir) = killed() else { return };
    let dir = dir.path();
    let lost = damage(&dir.join(".out.dus-partial"));
    let built = resume(dir).done().json();
    assert_eq!(kept(&built), all_bytes(dir) - lost, "{built:#}");
    check_same(&dir.join("out"), &dir.join("whole"));
    check_names(dir, &["base", "out", "whole"]);
    run(dus(dir), &["verify", "out"]).done();
}

/// The first shard that a killed build left, and its stretches.
fn a_shard(partial: &Path) -> (PathBuf, Vec<[u64; 3]>) {
    let mut found = stretches(partial.parent().unwrap());
    found.retain(|[shard, ..]| *shard == 0);
    let is_first = |name: &String| name.starts_with("model-00001");
    let model = partial.join("model");
    (model.join(names(&model).into_iter().find(is_first).unwrap()), found)
}

fn length(stretches: &[[u64; 3]]) -> u64 {
    stretches.iter().map(|[_, begin, end]| end - begin).sum()
}

#[test]
fn what_is_whole_is_not_done_again() {
    check_damaged(|_| 0);
    let Some(dir) = killed() else { return };
    let log = dir.path().join("log");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=pwrite64,pwritev,copy_file_range,sendfile,splice"]);
    strace.arg("-o").arg(&log).arg(env!("CARGO_BIN_EXE_dus")).current_dir(dir.path());
    run(strace, &args("out", &["--resume"])).done();
    let log = fs::read_to_string(log).unwrap();
    let written = log.lines().filter_map(|line| line.rsplit_once(" = ")?.1.parse::<u64>().ok());
    let headers = names(&dir.path().join("out")).iter().fold(0, |sum, name| {
        let path = dir.path().join("out").join(name);
        let is_shard = name.ends_with(".safetensors");
        sum + if is_shard { testkit::raw::RawFile::read(&path).header.len() as u64 + 8 } else { 0 }
    });
    assert_eq!(written.sum::<u64>(), headers, "{log}");
}

#[test]
fn a_flipped_bit_is_mended() {
    check_damaged(|partial| {
        let (shard, stretches) = a_shard(partial);
        let [_, begin, end] = stretches[stretches.len() / 2];
        let file = OpenOptions::new().read(true).write(true).open(shard).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, end - 1).unwrap();
        file.write_all_at(&[byte[0] ^ 4], end - 1).unwrap();
        end - begin
    });
}

#[test]
fn a_shard_that_is_cut_short_or_too_long_is_mended() {
    check_damaged(|partial| {
        let (shard, stretches) = a_shard(partial);
        let file = OpenOptions::new().write(true).open(shard).unwrap();
        let [_, begin, end] = *stretches.iter().max_by_key(|[_, begin, _]| *begin).unwrap();
        file.set_len(end - 1).unwrap();
        end - begin
    });
    check_damaged(|partial| {
        let (shard, _) = a_shard(partial);
        OpenOptions::new().append(true).open(shard).unwrap().write_all(b"more").unwrap();
        0
    });
}

#[test]
fn a_shard_that_is_gone_or_something_else_is_made_again() {
    check_damaged(|partial| {
        let (shard, stretches) = a_shard(partial);
        fs::remove_file(shard).unwrap();
        length(&stretches)
    });
    check_damaged(|partial| {
        let (shard, stretches) = a_shard(partial);
        fs::remove_file(&shard).unwrap();
        fs::create_dir(shard).unwrap();
        length(&stretches)
    });
    // A link is not written through.
    let elsewhere = tempfile::tempdir().unwrap();
    let mine = elsewhere.path().join("mine");
    fs::write(&mine, "mine").unwrap();
    check_damaged(|partial| {
        let (shard, stretches) = a_shard(partial);
        fs::remove_file(&shard).unwrap();
        symlink(&mine, shard).unwrap();
        length(&stretches)
    });
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
}

#[test]
fn a_header_that_is_overwritten_is_mended() {
    check_damaged(|partial| {
        let (shard, _) = a_shard(partial);
        OpenOptions::new().write(true).open(shard).unwrap().write_all_at(b"####", 6).unwrap();
        0
    });
}

#[test]
fn what_else_lies_there_does_not_come_to_the_output() {
    check_damaged(|partial| {
        fs::write(partial.join("notes.txt"), "of nobody").unwrap();
        fs::write(partial.join("model/notes.txt"), "of nobody").unwrap();
        fs::write(partial.join("model/config.json"), "half of {").unwrap();
        fs::write(partial.join(".dus-journal.next"), "half").unwrap();
        for folder in ["folder/in/folder", "model/folder/in/folder"] {
            fs::create_dir_all(partial.join(folder)).unwrap();
        }
        0
    });
    // A link is not written through, here as little as in the place of a file.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("mine"), "mine").unwrap();
    check_damaged(|partial| {
        fs::remove_dir_all(partial.join("model")).unwrap();
        symlink(elsewhere.path(), partial.join("model")).unwrap();
        length(&stretches(partial.parent().unwrap()))
    });
    assert_eq!(names(elsewhere.path()), ["mine"]);
}

fn edit_journal(partial: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let path = partial.join(".dus-journal");
    let mut lines = fs::read(&path).unwrap();
    edit(&mut lines);
    fs::write(path, lines).unwrap();
}

#[test]
fn a_torn_line_is_left_out() {
    check_damaged(|partial| {
        let [_, begin, end] = *stretches(partial.parent().unwrap()).last().unwrap();
        edit_journal(partial, |lines| lines.truncate(lines.len() - 5));
        end - begin
    });
    check_damaged(|partial| {
        // As a crash leaves a file that was longer than what of it had reached the disk.
        edit_journal(partial, |lines| lines.extend([0; 512]));
        0
    });
    check_damaged(|partial| {
        let [_, begin, end] = stretches(partial.parent().unwrap())[0];
        edit_journal(partial, |lines| {
            let at = lines.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            lines[at] ^= 1;
        });
        end - begin
    });
}

/// A journal that says more than there is, or less than nothing.
#[test]
fn a_line_about_nothing_is_left_out() {
    check_damaged(|partial| {
        edit_journal(partial, |lines| {
            for text in
                ["99 0 5 - 0 0 0 0", "0 99999999 999999999 12345678 0 0 0 0", "0 0 8 - 0 0 0 0"]
            {
                let sum = crc32fast::hash(text.as_bytes());
                lines.extend(format!("{text} {sum:08x}\n").bytes());
            }
        });
        0
    });
}

#[test]
fn without_a_journal_it_begins_anew() {
    for spoil in [
        |journal: &Path| fs::remove_file(journal).unwrap(),
        |journal: &Path| fs::write(journal, "").unwrap(),
        |journal: &Path| fs::write(journal, "not a journal\n").unwrap(),
        |journal: &Path| {
            fs::remove_file(journal).unwrap();
            fs::create_dir(journal).unwrap();
        },
    ] {
        let Some(dir) = killed() else { return };
        spoil(&dir.path().join(JOURNAL));
        let built = resume(dir.path()).done().json();
        assert_eq!(kept(&built), 0);
        assert!(built["notes"].to_string().contains("began anew"), "{built:#}");
        check_same(&dir.path().join("out"), &dir.path().join("whole"));
        check_names(dir.path(), &["base", "out", "whole"]);
    }
}

#[test]
fn where_nothing_was_begun_it_begins() {
    let dir = with_base();
    let said =
        run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "--resume", "-o", "out"]);
    assert!(said.done().stderr.contains("note: there was no interrupted build"));
    run(dus(dir.path()), &["verify", "out"]).done();
    // What is complete is not in the way of less, or more, than any other build.
    resume(dir.path()).refused(&["not empty"]);
}

/// Changes something, and asserts that it is refused by name, and that nothing is touched.
#[track_caller]
fn check_refused(change: impl FnOnce(&Path), flags: &[&str], expected: &[&str]) {
    let Some(dir) = killed() else { return };
    let dir = dir.path();
    change(dir);
    let before = Survey::of(dir);
    let always = ["--copy", "stream", "--resume"];
    let said = run(dus(dir), &args("out", &[&always, flags].concat()));
    said.refused(&[expected, &["hint: without --resume", "dus clean"]].concat());
    assert_eq!(Survey::of(dir).changes_since(&before, true), "");
}

fn first_weights(dir: &Path) -> PathBuf {
    let name = names(&dir.join("base")).into_iter().find(|name| name.ends_with(".safetensors"));
    dir.join("base").join(name.unwrap())
}

#[test]
fn a_changed_base_is_refused() {
    let weights = ["base/model-00001-of-00002.safetensors has changed: "];
    let touch = |dir: &Path| {
        OpenOptions::new()
            .append(true)
            .open(first_weights(dir))
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
    };
    check_refused(touch, &[], &[weights[0], "it was written to"]);
    // The same length, the same time, another file.
    let replace = |dir: &Path| {
        let path = first_weights(dir);
        let modified = path.metadata().unwrap().modified().unwrap();
        fs::copy(&path, dir.join("new")).unwrap();
        fs::rename(dir.join("new"), &path).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    check_refused(replace, &[], &[weights[0], "it was replaced"]);
    let edit = |dir: &Path| {
        testkit::raw::edit_json(&dir.join("base/config.json"), |config| {
            config["mascot"] = "yak".into();
        });
    };
    check_refused(edit, &[], &["base/config.json has changed: it had "]);
    let other = |dir: &Path| {
        fs::rename(dir.join("base"), dir.join("other")).unwrap();
        symlink("other", dir.join("base")).unwrap();
    };
    check_refused(other, &[], &["`base`", "/other/"]);
}

#[test]
fn a_changed_recipe_is_refused() {
    let nothing = |_: &Path| ();
    let dtype = ["its `dtype` was not given, and now is \"float16\""];
    check_refused(nothing, &["--dtype", "float16"], &dtype);
    let layers = ["its `layers` was \"dus(1)\", and now is \"0..3 + 1..4\""];
    check_refused(nothing, &["--layers", "0..3 + 1..4"], &layers);
    check_refused(nothing, &["--architecture", "llama"], &["`architecture`"]);
    check_refused(nothing, &["--shard-layout", "source"], &["`shard_layout`"]);
    let Some(dir) = killed() else { return };
    let args = ["build", "base", "--layers", "dus(1)", "--resume", "-o", "out"];
    run(dus(dir.path()), &args).refused(&["its `max_shard_size` was 8000, and now is 5000000000"]);
}

#[test]
fn another_version_s_build_is_refused() {
    let change = |dir: &Path| {
        edit_journal(&dir.join(".out.dus-partial"), |lines| {
            let text = String::from_utf8(lines.clone()).unwrap();
            let (head, rest) = text.split_once('\n').unwrap();
            let version = format!("\"dus\":\"{}\"", env!("CARGO_PKG_VERSION"));
            let head = head.rsplit_once(' ').unwrap().0.replacen(&version, "\"dus\":\"0.0.1\"", 1);
            let sum = crc32fast::hash(head.as_bytes());
            *lines = format!("{head} {sum:08x}\n{rest}").into_bytes();
        });
    };
    check_refused(change, &[], &["its `dus` was \"0.0.1\""]);
}

/// How bytes move says nothing of what they are.
#[test]
fn it_may_go_on_in_another_way() {
    for (first, second) in [("stream", "kernel"), ("kernel", "stream"), ("kernel", "auto")] {
        if !has_strace() {
            return;
        }
        let dir = with_base();
        run(dus(dir.path()), &args("whole", &[])).done();
        assert!(kill(dir.path(), "fsync", 1, &args("out", &["--copy", first])));
        let said = run(dus(dir.path()), &args("out", &["--copy", second, "--resume"])).done();
        assert!(kept(&said.json()) == all_bytes(dir.path()) || second == "auto");
        check_same(&dir.path().join("out"), &dir.path().join("whole"));
    }
}

/// What the kernel copied has no checksum: it is compared with its source.
#[test]
fn a_flipped_bit_in_what_the_kernel_copied_is_mended() {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    run(dus(dir), &args("whole", &[])).done();
    assert!(kill(dir, "fsync", 1, &args("out", &["--copy", "kernel"])));
    let (shard, stretches) = a_shard(&dir.join(".out.dus-partial"));
    let [_, begin, end] = stretches[0];
    let file = OpenOptions::new().read(true).write(true).open(shard).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, begin).unwrap();
    file.write_all_at(&[byte[0] ^ 1], begin).unwrap();
    let built = run(dus(dir), &args("out", &["--copy", "kernel", "--resume"])).done().json();
    assert_eq!(kept(&built), all_bytes(dir) - (end - begin));
    check_same(&dir.join("out"), &dir.join("whole"));
}

#[test]
fn interrupted_again_and_again() {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    run(dus(dir), &args("whole", &[])).done();
    let again = args("out", &["--copy", "stream", "--resume"]);
    let (mut rounds, mut last) = (0, 0);
    // Each time one more write of each thread gets through, beside those of the headers.
    let num_shards =
        names(&dir.join("whole")).iter().filter(|n| n.ends_with("safetensors")).count();
    while kill(dir, "pwrite64", num_shards + 2, &again) {
        let finished = finished_bytes(dir);
        assert!(finished >= last, "{finished} of {last} are left");
        (rounds, last) = (rounds + 1, finished);
        assert!(rounds < 200, "it does not get on");
    }
    assert!(rounds > 1, "it was not interrupted again");
    check_same(&dir.join("out"), &dir.join("whole"));
    check_names(dir, &["base", "out", "whole"]);
}

/// With `--resume`, an error leaves what is done, and says how to go on.
#[track_caller]
fn check_left(what: &str, reason: &str) {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    run(dus(dir), &args("whole", &[])).done();
    let flags = args("new/out", &["--copy", "stream", "--resume"]);
    let said = run_injected(dir, what, &flags);
    said.refused(&[
        "new/out",
        "are done, and stay in ",
        reason,
        "hint: ",
        "--resume",
        "dus clean ",
    ]);
    check_names(&dir.join("new"), &[".out.dus-partial"]);
    let finished = finished_bytes(&dir.join("new"));
    assert!(finished > 0);
    // Its path to the base is not that of the whole one, which its manifest shows.
    let built = run(dus(dir), &flags).done().json();
    assert_eq!(kept(&built), finished, "{built:#}");
    run(dus(dir), &["verify", "new/out"]).done();
    check_names(&dir.join("new"), &["out"]);
    for name in names(&dir.join("whole")).iter().filter(|name| name.ends_with(".safetensors")) {
        let [out, whole] =
            ["new/out", "whole"].map(|at| fs::read(dir.join(at).join(name)).unwrap());
        assert!(out == whole, "{name} differs");
    }
}

#[test]
fn an_error_leaves_what_is_done() {
    let dir = with_base();
    run(dus(dir.path()), &args("whole", &[])).done();
    let whole = names(&dir.path().join("whole"));
    let num_shards = whole.iter().filter(|name| name.ends_with("safetensors")).count();
    let when = num_shards + 3;
    check_left(&format!("pwrite64:error=ENOSPC:when={when}+"), "No space left on device");
    check_left(&format!("pwrite64:error=EIO:when={when}"), "Input/output error");
    check_left("fsync:error=EIO:when=2", "Input/output error");
    check_left("?rename,?renameat,?renameat2:error=EIO", "Input/output error");
    // Where nothing is done, nothing is left.
    if has_strace() {
        let before = Survey::of(dir.path());
        let flags = args("new/out", &["--resume"]);
        run_injected(dir.path(), "ftruncate:error=ENOSPC", &flags).refused(&["No space left"]);
        assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "");
    }
}

/// What the first part of a build lost in a cast is known to the second.
#[test]
fn casts_are_counted_over_all_parts() {
    let dir = with_base();
    let dir = dir.path();
    let flags = ["--layers", "dus(1){new o_proj: scale 1e30}", "--dtype", "float16"];
    let overflow = [&flags[..], &["--allow-overflow"]].concat();
    let whole = run(dus(dir), &args("whole", &overflow)).done().json();
    assert!(whole["cast"]["overflowed"].as_u64() > Some(0));
    let resumed = [&flags[..], &["--resume"]].concat();
    let count = whole["cast"]["overflowed"].to_string();
    for _ in 0..2 {
        let said = run(dus(dir), &args("out", &resumed));
        said.refused(&["too large for float16", &count, "--allow-overflow", "hint: --resume"]);
    }
    let built = run(dus(dir), &args("out", &[&overflow[..], &["--resume"]].concat())).done().json();
    assert_eq!(kept(&built), bytes(&built, "bytes"));
    assert_eq!(built["cast"], whole["cast"]);
    check_same(&dir.join("out"), &dir.join("whole"));
}

fn large(flags: &[&'static str]) -> Vec<&'static str> {
    [&BUILD[..], &["-o", "out"], flags].concat()
}

/// Starts a large build, and comes back when its journal has some lines.
#[track_caller]
fn under_way(dir: &Path, flags: &[&'static str], num_lines: usize) -> UnderWay {
    UnderWay::start(dus(dir), &large(flags), |_| stretches(dir).len() >= num_lines)
}

#[test]
fn a_signal_leaves_what_is_done_if_it_is_to_be_gone_on_with() {
    let dir = with_large_base();
    let dir = dir.path();
    let mut finished = 0;
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let num_lines = stretches(dir).len() + 2;
        let said = under_way(dir, &["--resume"], num_lines).send(signal).end();
        assert_eq!(said.code, Some(code), "{said:#?}");
        for part in ["are done, and stay in ", "--resume", "dus clean "] {
            assert!(said.stderr.contains(part), "{said:#?}");
        }
        check_names(dir, &[".out.dus-partial", "base"]);
        assert!(finished_bytes(dir) > finished);
        finished = finished_bytes(dir);
    }
    let said = run(dus(dir), &large(&["--resume", "--json"])).done().json();
    assert_eq!(kept(&said), finished);
    run(dus(dir), &["verify", "out"]).done();
    check_names(dir, &["base", "out"]);
}

#[test]
fn a_signal_while_it_checks_loses_nothing() {
    let Some(dir) = killed() else { return };
    let dir = dir.path();
    let again = args("out", &["--copy", "stream", "--resume"]);
    // The loader of programs reads a few times by itself; each thread may get one.
    let said = run_injected(dir, "pread64:signal=TERM:when=8", &again);
    assert_eq!(said.code, Some(143), "{said:#?}");
    assert_eq!(finished_bytes(dir), all_bytes(dir));
    assert_eq!(kept(&resume(dir).done().json()), all_bytes(dir));
    check_same(&dir.join("out"), &dir.join("whole"));
}

#[test]
fn who_comes_while_it_is_gone_on_with_is_told() {
    let dir = with_large_base();
    let dir = dir.path();
    under_way(dir, &[], 3).send("KILL").end();
    let num_lines = stretches(dir).len() + 1;
    let first = under_way(dir, &["--resume"], num_lines).send("STOP");
    run(dus(dir), &large(&["--resume"])).refused(&["another build is writing"]);
    run(dus(dir), &["clean", "out"]).refused(&["another build is writing"]);
    let said = first.send("CONT").end();
    assert_eq!(said.code, Some(0), "{said:#?}");
    run(dus(dir), &["verify", "out"]).done();
}

#[test]
fn an_interrupted_build_is_told_of() {
    let dir = with_large_base();
    let dir = dir.path();
    let plan = ["plan", "base", "--layers", "dus(1)", "-o", "out"];
    let said = run(dus(dir), &plan).done();
    assert!(!said.stderr.contains("--resume"), "{said:#?}");
    under_way(dir, &[], 4).send("KILL").end();
    let said = run(dus(dir), &plan).done();
    for part in ["note: ", " of a build are done in ", ".out.dus-partial", "--resume"] {
        assert!(said.stderr.contains(part), "{said:#?}");
    }
    let said = run(dus(dir), &[&plan[..], &["--json"]].concat()).done();
    assert!(said.json()["notes"].to_string().contains("--resume"), "{said:#?}");
    // Without --resume, it is begun anew.
    let built = run(dus(dir), &large(&["--json"])).done().json();
    assert_eq!(kept(&built), 0);
    let notes = built["notes"].to_string();
    assert!(notes.contains("was discarded") && notes.contains("--resume"), "{built:#}");
    run(dus(dir), &["verify", "out"]).done();
}
