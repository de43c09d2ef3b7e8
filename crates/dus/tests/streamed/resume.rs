//! Builds of a base on the hub that broke off, and are gone on with.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use testkit::TinyModel;
use testkit::hub_server::{Fault, Host};

use crate::dus::names;
use crate::{BUILD, PLAN, Place, REPO};

impl Place {
    /// Begins a build that can be gone on with, and stops it by ^C when some of it is done.
    fn interrupt(&self, flags: &[&str]) {
        let mut dus = self.dus();
        dus.args(BUILD).args(["--layers", PLAN, "--resume"]).args(flags);
        let mut child = dus.stderr(Stdio::piped()).spawn().unwrap();
        let journal = self.dir.path().join(".out.dus-partial/.dus-journal");
        // Behind the first line stands what is done.
        while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 2 {
            if child.try_wait().unwrap().is_some() {
                let output = child.wait_with_output().unwrap();
                panic!("it came to an end: {}", String::from_utf8_lossy(&output.stderr));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let kill = format!("kill -INT {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("--resume"), "{stderr}");
        self.hub.clear_faults();
        self.hub.forget_requests();
    }

    /// The same, in the second file of the base.
    fn interrupt_in_second_file(&self) {
        self.slow_down(2, 20);
        self.interrupt(&[]);
    }

    /// Lets a file of the base come by 4 KiB in so many milliseconds.
    fn slow_down(&self, number: usize, milliseconds: u64) {
        let slow = Fault::Slow(Duration::from_millis(milliseconds));
        self.hub.fail(Host::Storage, &self.hash(number), 999, slow);
    }
}

/// What an earlier run had is not asked for again; what it had not, is. All of it is proved.
#[test]
fn a_build_that_broke_off_goes_on() {
    let place = Place::new();
    place.interrupt_in_second_file();
    let said = place.build(&["--resume", "--json"]).done();
    place.check_built();
    place.check_nothing_kept();
    assert_eq!(said.stderr, "");
    assert!(said.json()["resumed_bytes"].as_u64().unwrap() > 0, "{said:#?}");
    assert!(place.hub.bytes_from_storage() < place.base_bytes() * 3 / 4);
}

/// What was copied is read back for the hash of its file.
#[test]
fn what_an_earlier_run_copied_is_proved() {
    let place = Place::new();
    // The first file's hash is never complete, so that the damage is not found.
    let first = place.hash(1);
    place.hub.fail(Host::Storage, &format!("{first} bytes=0-4194303"), 1, Fault::WrongEnd);
    place.hub.fail(Host::Storage, &format!("{first} bytes=4194304-"), 99, Fault::Stall(0));
    place.hub.fail_later(Host::Storage, &place.hash(2), 1, 99, Fault::Stall(0));
    place.interrupt(&[]);
    place.build(&["--resume"]).refused(&["model-00001-of-00002.safetensors", "arrived damaged"]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

/// Of what was computed the source's bytes are gone, which is said in any case.
#[test]
fn what_an_earlier_run_computed_is_not_proved() {
    let place = Place::new();
    place.slow_down(1, 1);
    place.hub.fail_later(Host::Storage, &place.hash(2), 1, 99, Fault::Stall(0));
    place.interrupt(&["--dtype", "float32"]);
    let said = place.build(&["--dtype", "float32", "--resume", "--quiet"]).done();
    let warned = "warning: not checked by the hub's hash, as an earlier run had computed from it: \
                  model-00001-of-00002.safetensors of owner/tiny@";
    assert!(said.stderr.starts_with(warned), "{said:#?}");
    assert!(!said.stderr.contains("model-00002"), "{said:#?}");
}

/// A file that no earlier run had begun is, all the same.
#[test]
fn a_file_that_was_not_begun_is_proved() {
    let place = Place::new();
    place.slow_down(1, 1);
    place.hub.fail_later(Host::Storage, &place.hash(2), 1, 99, Fault::Stall(0));
    place.interrupt(&["--dtype", "float32"]);
    place.hub.fail_later(Host::Storage, &place.hash(2), 1, 99, Fault::WrongEnd);
    let said = place.build(&["--dtype", "float32", "--resume"]);
    said.refused(&["model-00002-of-00002.safetensors", "arrived damaged"]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

/// What arrived damaged is not gone on with, either.
#[test]
fn a_damaged_base_leaves_nothing_to_go_on_with() {
    let place = Place::new();
    place.hub.fail_later(Host::Storage, "", 2, 99, Fault::WrongEnd);
    place.build(&["--resume"]).refused(&["arrived damaged"]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

/// A branch that moved is another base.
#[test]
fn a_base_that_moved_is_not_gone_on_with() {
    let place = Place::new();
    place.interrupt_in_second_file();
    TinyModel { seed: 9, num_shards: Some(2), ..TinyModel::default() }.write(place.base.path());
    let _ = place.hub.commit_folder(REPO, place.base.path());
    place.build(&["--resume"]).refused(&["its `base` was", "and now is"]);
}
