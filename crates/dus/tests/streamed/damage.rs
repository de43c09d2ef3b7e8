//! What goes wrong on the way from the hub.

use std::fs;
use std::thread;

use testkit::hub_server::{Fault, Host};
use testkit::{splice, weights};

use crate::dus::names;
use crate::{Place, REPO};

#[test]
fn faults_end_in_the_right_bytes_or_in_an_error() {
    #[track_caller]
    fn check(fault: Fault, times: usize, refused: Option<&str>) {
        let place = Place::new();
        // Each of the two files is asked for its header first.
        place.hub.fail_later(Host::Storage, "", 2, times, fault);
        let said = place.build(&[]);
        match refused {
            None => {
                said.done();
                place.check_built();
            }
            Some(expected) => {
                said.refused(&[expected]);
                assert_eq!(names(place.dir.path()), ["tmp"]);
            }
        }
        place.check_nothing_kept();
    }
    // Most of them wait for one thing or another.
    thread::scope(|scope| {
        let status = |status, headers| Fault::Status(status, headers);
        for (fault, times, refused) in [
            (Fault::Drop(100_000), 3, None),
            (Fault::Longer(9), 1, None),
            (status(503, vec![("retry-after", "0")]), 3, None),
            (status(429, vec![("retry-after", "1")]), 3, None),
            (Fault::WrongBytes, 999, Some("changed while it was read")),
            (Fault::WrongEnd, 999, Some("arrived damaged")),
            (Fault::OtherTag, 999, Some("changed while it was read")),
            (Fault::IgnoreRange, 999, Some("does not send parts of files")),
            (Fault::OtherRange, 999, Some("does not send parts of files")),
            (Fault::Shorter(5), 2, None),
            (status(404, vec![]), 999, Some("404")),
        ] {
            scope.spawn(move || check(fault, times, refused));
        }
    });
}

/// Also of layers that no new layer is: without them a file has no hash.
#[test]
fn a_plan_that_drops_layers_is_checked_too() {
    let place = Place::new();
    place.build_plan("0..1", &[]).done();
    let base = weights::read(place.base.path());
    let expected = splice::expected(&base, &[0], "model.layers");
    splice::assert_same(&weights::read(&place.out()), &expected);
    fs::remove_dir_all(place.out()).unwrap();
    place.hub.fail_later(Host::Storage, "", 2, 99, Fault::WrongBytes);
    place.build_plan("0..1", &[]).refused(&[REPO]);
    assert!(!place.out().exists());
}

/// Noise follows what was measured, which is read apart from what is hashed.
#[test]
fn noise_of_damaged_bytes_is_refused() {
    let place = Place::new();
    place.hub.fail_later(Host::Storage, "", 2, 1, Fault::WrongBytes);
    let plan = "0..3 + (1..4){new *: noise 0.1 seed=1}";
    place.build_plan(plan, &[]).refused(&["changed while it was read"]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

/// All else follows from the header, which is read apart, too.
#[test]
fn a_header_that_comes_in_two_forms_is_refused() {
    let place = Place::new();
    let other = Fault::OtherText("\"BF16\"", "\"F16\" ");
    place.hub.fail(Host::Storage, &place.hash(1), 1, other);
    place.build(&[]).refused(&["model-00001-of-00002.safetensors", "changed while it was read"]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}
