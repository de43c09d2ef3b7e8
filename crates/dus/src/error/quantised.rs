//! What cannot be done to quantised weights.

use std::path::PathBuf;

use checkpoint::Encoding;

/// A cast or an operation that quantised weights do not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantisedError {
    /// A cast of a model whose weights are quantised.
    #[error("weights cannot be cast to {dtype}: `quantization_config` in {} says that they are quantised", config.display())]
    CastOfQuantised {
        /// The config.
        config: PathBuf,
        /// The type asked for.
        dtype: Encoding,
    },

    /// A cast of a model in which tensors are quantised, though its config does not say so.
    #[error("weights cannot be cast to {dtype}: `{tensor}` is {found}, which is quantised")]
    CastBesideQuantised {
        /// A quantised tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
        /// The type asked for.
        dtype: Encoding,
    },

    /// An operation on a quantised tensor.
    #[error("an operation matches `{tensor}`, which is quantised: `{mate}` is {encoding}")]
    ChangeOfQuantised {
        /// The tensor.
        tensor: String,
        /// The tensor beside it that shows so.
        mate: String,
        /// Its type.
        encoding: Encoding,
    },

    /// Noise on quantised blocks that stay quantised.
    #[error(
        "noise cannot be added to `{tensor}`: it is {found}, whose blocks are copied as they are"
    )]
    NoiseOfBlocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
    },

    /// A scale that the blocks' own scales cannot take exactly.
    #[error(
        "`{tensor}` cannot be scaled by {factor}: it is {found}, whose blocks take only powers of two (some only positive ones)"
    )]
    ScaleOfBlocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
        /// The product of all scales on it.
        factor: f64,
    },

    /// Blocks whose scale would under- or overflow.
    #[error("quantised blocks cannot be scaled exactly: {count} of them, the first in `{tensor}`")]
    Inexact {
        /// How many.
        count: u64,
        /// The first new tensor by name that has such blocks.
        tensor: String,
    },

    /// A cast of quantised blocks that stay in a GGUF file.
    #[error(
        "`{tensor}` is {found} and cannot be cast to {dtype} in a GGUF file; its blocks are copied as they are"
    )]
    CastOfBlocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
        /// The type asked for.
        dtype: &'static str,
    },
}
