//! What bad input gets: an error that names what is wrong, exit code 2, and nothing at the output.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "bad_input/bases.rs"]
mod bases;
#[path = "bad_input/case.rs"]
mod case;
#[path = "bad_input/configs.rs"]
mod configs;
#[path = "bad_input/disks.rs"]
mod disks;
#[path = "bad_input/headers.rs"]
mod headers;
#[path = "bad_input/indices.rs"]
mod indices;
#[path = "bad_input/layers.rs"]
mod layers;
#[path = "bad_input/outputs.rs"]
mod outputs;
#[path = "bad_input/recipes.rs"]
mod recipes;
