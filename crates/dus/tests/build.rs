//! What a build leaves: every file of it, and what `verify` makes of them.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "build/bases.rs"]
mod bases;
#[path = "build/depths.rs"]
mod depths;
#[path = "build/differences.rs"]
mod differences;
#[path = "build/folders.rs"]
mod folders;
#[path = "build/form.rs"]
mod form;
#[path = "build/recipes.rs"]
mod recipes;
#[path = "build/shards.rs"]
mod shards;
#[path = "build/surroundings.rs"]
mod surroundings;
#[path = "build/weights.rs"]
mod weights;
#[path = "build/workshop.rs"]
mod workshop;
