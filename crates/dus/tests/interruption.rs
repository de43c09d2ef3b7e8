//! Builds that are stopped, killed or made twice: the output is complete or is not there.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "interruption/clean.rs"]
mod clean;
#[path = "command_line/dus.rs"]
mod dus;
#[path = "interruption/force.rs"]
mod force;
#[path = "interruption/gguf.rs"]
mod gguf;
#[path = "interruption/places.rs"]
mod places;
#[path = "interruption/resume.rs"]
mod resume;
#[path = "interruption/signals.rs"]
mod signals;
#[path = "interruption/twice.rs"]
mod twice;
#[path = "interruption/under_way.rs"]
mod under_way;
