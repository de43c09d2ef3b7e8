//! How bytes move on real file systems: shared, copied in the kernel, read and written, or not at all.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "command_line/dus.rs"]
mod dus;
#[path = "movement/faults.rs"]
mod faults;
#[path = "movement/fill.rs"]
mod fill;
#[path = "movement/image.rs"]
mod image;
#[path = "movement/sharing.rs"]
mod sharing;
#[path = "movement/unshared.rs"]
mod unshared;
