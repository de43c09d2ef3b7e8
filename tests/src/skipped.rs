//! Tests that need data which lie beside the repository, in a folder shared with other projects.

use std::path::Path;

/// Says why a test is skipped.
///
/// In continuous integration (`CI=true`) beside the shared folder nothing may be missing: there it
/// panics, so that what is not tested does not pass.
#[track_caller]
pub fn skipped(why: &str) {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    skipped_where(why, is_ci, shared.exists());
}

#[track_caller]
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn skipped_where(why: &str, is_ci: bool, is_shared_there: bool) {
    assert!(!(is_ci && is_shared_there), "CI=true and the shared folder is there, but {why}");
    eprintln!("skipped: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_skipped_where_its_data_cannot_be() {
        skipped_where("it is not there", false, true);
        skipped_where("it is not there", true, false);
    }

    #[test]
    #[should_panic(expected = "but it is not there")]
    fn it_fails_where_they_must_be() {
        skipped_where("it is not there", true, true);
    }
}
