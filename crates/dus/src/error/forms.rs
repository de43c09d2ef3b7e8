//! What one form of files cannot hold of the other.

use std::path::PathBuf;

use checkpoint::Encoding;
use checkpoint::gguf::GgufError;

/// What of a model has no place in the form that is to be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// A type that only a GGUF file can have.
    #[error("dtype {dtype} is for GGUF files; a folder takes float16, bfloat16 or float32")]
    DtypeOfGguf {
        /// The type asked for.
        dtype: &'static str,
    },

    /// A model whose tensors have no names in GGUF files.
    #[error("the model_type in {} has no architecture of GGUF here; known are {known}", config.display())]
    NoArchitecture {
        /// The config.
        config: PathBuf,
        /// The model types that have one.
        known: String,
    },

    /// A tensor whose rows are no whole number of heads.
    #[error(
        "`{tensor}` has {rows} rows, which are no whole number of heads of even size by `{key}`"
    )]
    Heads {
        /// The tensor.
        tensor: String,
        /// Its rows.
        rows: usize,
        /// The key of the number of heads.
        key: &'static str,
    },

    /// A config that says what GGUF's metadata cannot.
    #[error("{} cannot become the metadata of a GGUF file", config.display())]
    NotInGgufForm {
        /// The config.
        config: PathBuf,
        /// What cannot be said.
        source: Box<GgufError>,
    },

    /// A tensor that models of its architecture do not have in GGUF files.
    #[error("`{tensor}` has no name in GGUF files")]
    NoNameInGguf {
        /// The tensor.
        tensor: String,
    },

    /// A tensor that a GGUF file cannot hold.
    #[error("`{tensor}` is {found}, which a GGUF file cannot hold")]
    NotInGguf {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
    },
}
