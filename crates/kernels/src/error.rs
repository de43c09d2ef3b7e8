//! What can keep a GPU from working.

use std::io;
use std::path::PathBuf;

/// A `Result` whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What keeps a GPU from working.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The crate was built where there was no nvcc.
    #[error("this program was built without nvcc, so it has no kernels for GPUs")]
    NoKernels,

    /// A library of NVIDIA's is not there.
    #[error("{library} is not found: is NVIDIA's driver, and CUDA, installed?")]
    NoLibrary {
        /// The library's file name.
        library: &'static str,
    },

    /// There are fewer cards.
    #[error("this machine has {count} of NVIDIA's GPUs, numbered from 0")]
    NoDevice {
        /// How many there are.
        count: usize,
    },

    /// The kernels were not compiled for the card.
    #[error("the kernels were not compiled for this card's compute capability, {major}.{minor}")]
    NoKernelForCard {
        /// As in 9.0.
        major: u32,
        /// As in 9.0.
        minor: u32,
    },

    /// The card has no room.
    #[error("{bytes} bytes are not free on the GPU")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },

    /// A row of logits does not fit the memory of the blocks that choose among them.
    #[error("among {vocab_size} tokens a GPU cannot choose the next: {most} are the most")]
    LargeVocabulary {
        /// Tokens of a row.
        vocab_size: usize,
        /// The most that the card takes.
        most: usize,
    },

    /// The driver refused.
    #[error("{call} failed: {name}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Its word for what went wrong.
        name: String,
    },

    /// A file that goes to the card cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file that goes to the card ends too early.
    #[error("{} ends after {bytes} bytes, where {end} are expected", path.display())]
    ShortFile {
        /// The file.
        path: PathBuf,
        /// The bytes that it should have at least.
        end: u64,
        /// The bytes that it has.
        bytes: u64,
    },
}
