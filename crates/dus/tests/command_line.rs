//! The command line as a user meets it: help, texts, JSON, streams, exit codes, models by name.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "command_line/dus.rs"]
mod dus;
#[path = "command_line/help.rs"]
mod help;
#[path = "command_line/json.rs"]
mod json;
#[path = "command_line/models.rs"]
mod models;
#[path = "command_line/plans.rs"]
mod plans;
#[path = "command_line/shell.rs"]
mod shell;
#[path = "command_line/streams.rs"]
mod streams;
