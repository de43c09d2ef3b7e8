//! Operations and casts: what is written follows from the source's bytes by arithmetic done here.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "build/bases.rs"]
mod bases;
#[path = "operations/casts.rs"]
mod casts;
#[path = "operations/function.rs"]
mod function;
#[path = "operations/noise.rs"]
mod noise;
#[path = "operations/numbers.rs"]
mod numbers;
#[path = "operations/quantised.rs"]
mod quantised;
#[path = "operations/scales.rs"]
mod scales;
#[path = "build/workshop.rs"]
mod workshop;
