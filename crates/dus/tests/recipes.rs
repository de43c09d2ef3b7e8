//! Recipes: those of `configs/` on the models they are for, and what a recipe's keys mean.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "command_line/dus.rs"]
mod dus;
#[path = "recipes/keys.rs"]
mod keys;
#[path = "recipes/published.rs"]
mod published;
#[path = "recipes/real.rs"]
mod real;
