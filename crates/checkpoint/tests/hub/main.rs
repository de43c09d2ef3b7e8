//! The hub, played on loopback: downloads, ranges, uploads, and everything that goes wrong there.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is tests and their helpers"
)]

mod cache;
mod downloads;
mod faults;
mod place;
mod push;
mod python;
mod remote;
mod tls;
