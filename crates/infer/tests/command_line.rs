//! The program as a user meets it: commands, JSON, streams, exit codes, bad input.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "command_line/bad_input.rs"]
mod bad_input;
#[path = "command_line/chat.rs"]
mod chat;
#[path = "command_line/generate.rs"]
mod generate;
#[path = "command_line/gguf.rs"]
mod gguf;
#[path = "command_line/infer.rs"]
mod infer;
#[path = "command_line/logits.rs"]
mod logits;
#[path = "command_line/measures.rs"]
mod measures;
#[path = "command_line/score.rs"]
mod score;
#[path = "command_line/streams.rs"]
mod streams;
#[path = "command_line/terminal.rs"]
mod terminal;
