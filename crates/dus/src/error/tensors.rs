//! What is wrong with the tensors of a model, or of several.

use std::path::PathBuf;

/// Tensors that are not those which the config promises, or which another model has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsError {
    /// A layer that the config promises and the weights lack.
    #[error(
        "`{prefix}.{layer}` is not in the weights, but the config promises {num_layers} layers"
    )]
    LayerMissing {
        /// What stands before the layer number.
        prefix: String,
        /// The first layer that is missing.
        layer: usize,
        /// The config's layer count.
        num_layers: usize,
    },

    /// A layer that the weights have and the config does not promise.
    #[error(
        "`{prefix}.{layer}` is in the weights, but the config promises {num_layers} layers only"
    )]
    LayerNotPromised {
        /// What stands before the layer number.
        prefix: String,
        /// The first layer too many.
        layer: usize,
        /// The config's layer count.
        num_layers: usize,
    },

    /// No tensor's name has a layer number that fits.
    #[error("no tensors are numbered as the {num_layers} layers that the config promises")]
    NoLayers {
        /// The config's layer count.
        num_layers: usize,
    },

    /// Several stacks of layers that could be meant.
    #[error("`{prefixes}` each have the {num_layers} layers that the config promises")]
    SeveralStacks {
        /// What stands before their layer numbers.
        prefixes: String,
        /// The config's layer count.
        num_layers: usize,
    },

    /// A tensor that every model of the family has.
    #[error("`{tensor}` is missing in {}", dir.display())]
    TensorMissing {
        /// The tensor.
        tensor: String,
        /// The model's folder.
        dir: PathBuf,
    },

    /// A tensor whose shape the config contradicts.
    #[error("`{tensor}` in {} has shape {found:?}, but the config says {expected:?} ({keys})", file.display())]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the config says.
        expected: Vec<u64>,
        /// The config's keys that say so.
        keys: String,
    },

    /// Models whose layers have different names.
    #[error(
        "models are not alike: the layers of {first} are `{first_prefix}`, those of {other} `{other_prefix}`"
    )]
    UnlikeNames {
        /// A model.
        first: String,
        /// What stands before its layer numbers.
        first_prefix: String,
        /// Another.
        other: String,
        /// What stands before its layer numbers.
        other_prefix: String,
    },

    /// Models whose tensors have different shapes.
    #[error(
        "models are not alike: `{tensor}` has shape {found:?} in {other}, but {expected:?} in {first}"
    )]
    UnlikeShapes {
        /// The tensor as it is called in `other`.
        tensor: String,
        /// A model.
        first: String,
        /// The shape there.
        expected: Vec<usize>,
        /// Another.
        other: String,
        /// The shape there.
        found: Vec<usize>,
    },
}

impl TensorsError {
    /// What the user can do about it, where that is known.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TensorMissing { .. } | Self::LayerMissing { .. } => {
                "the base looks incomplete; download it again".to_owned()
            }
            _ => return None,
        })
    }
}
