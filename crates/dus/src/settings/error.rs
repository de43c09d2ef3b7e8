//! What can be wrong with a config that is to describe a deeper model.

use super::rules::LAYER_COUNT_KEYS;

/// Why no config can be written; every message begins with the key that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// No key says how many layers there are.
    #[error(
        "the config states no layer count: expected one of {}",
        LAYER_COUNT_KEYS.map(|key| format!("`{key}`")).join(", ")
    )]
    NoLayerCount,

    /// Two keys state the layer count and differ.
    #[error("`{key}` is {found}, but `{other}` is {expected}: both state the layer count")]
    LayerCounts {
        /// The later key.
        key: String,
        /// Its value.
        found: usize,
        /// The key that comes first in the table of names.
        other: &'static str,
        /// The value of `other`.
        expected: usize,
    },

    /// A value is not of the kind that its key asks for.
    #[error("`{key}`: expected {expected}, found {found}")]
    Malformed {
        /// The key, with those that it stands under.
        key: String,
        /// What loaders accept there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },

    /// The language model's settings stand in a nested config.
    #[error("`{key}` holds the language model's settings: nested configs cannot be deepened yet")]
    Nested {
        /// The key of the nested config.
        key: &'static str,
    },

    /// The plan asks for a layer that the config does not count.
    #[error("layer {layer} of model {model} is past its last: it has {num_layers}")]
    NoSuchLayer {
        /// The model, by its place in the recipe.
        model: usize,
        /// The layer that was asked for.
        layer: usize,
        /// The model's layer count.
        num_layers: usize,
    },

    /// A per-layer list has not one entry a layer.
    #[error("`{key}` has {found} entries, expected {expected}, one a layer")]
    ListLength {
        /// The key of the list.
        key: String,
        /// How many entries there are.
        found: usize,
        /// The layer count.
        expected: usize,
    },

    /// A list is as long as the model is deep, and nothing is known of it.
    #[error(
        "`{key}` has {len} entries, as many as the base has layers, and is not known to go by \
         layer or not"
    )]
    UnknownList {
        /// The key of the list.
        key: String,
        /// Its length, which is the base's layer count.
        len: usize,
    },

    /// A number that seems to say how often a kind of layer comes, and nothing is known of it.
    #[error(
        "`{key}` is {value}: layers seem to differ by their number, by a rule that is not known"
    )]
    UnknownInterval {
        /// The key of the number.
        key: String,
        /// Its value.
        value: String,
    },

    /// A rule by layer number would give a new layer another kind than its source has.
    #[error(
        "`{key}` goes by the layer's number: new layer {layer} would be {found}, but layer \
         {source_layer}, which it is made from, is {expected}"
    )]
    ByNumber {
        /// The key whose rule it is.
        key: &'static str,
        /// The new layer.
        layer: usize,
        /// Its source.
        source_layer: usize,
        /// The kind of the source.
        expected: &'static str,
        /// The kind that the number gives.
        found: &'static str,
    },

    /// A loader of GGUF files would take a new layer for another kind than its source was.
    #[error(
        "`{key}`: llama.cpp tells the layers of `{architecture}` apart by their numbers, and would \
         take new layer {layer} for {found}, but layer {source_layer}, which it is made from, is \
         {expected}"
    )]
    LoaderByNumber {
        /// The key of the rule, or of the architecture that has it built in.
        key: String,
        /// The architecture.
        architecture: String,
        /// The new layer.
        layer: usize,
        /// Its source.
        source_layer: usize,
        /// The kind of the source.
        expected: &'static str,
        /// The kind that the number gives.
        found: &'static str,
    },

    /// More layers than loaders have room for.
    #[error("`{key}` would be {found}, and llama.cpp has room for {max}")]
    TooDeep {
        /// The key of the layer count.
        key: String,
        /// The new count.
        found: usize,
        /// The most that there may be.
        max: usize,
    },

    /// The sources of a made layer (`mix`, `slerp`) differ in a setting.
    #[error("`{key}` differs between the layers that new layer {layer} is made of")]
    MadeOfUnlike {
        /// The key of the setting.
        key: String,
        /// The new layer.
        layer: usize,
    },

    /// One model of several has a per-layer setting that another lacks.
    #[error("`{key}` goes by layer and is missing in {model}")]
    Missing {
        /// The key of the setting.
        key: String,
        /// The model without it.
        model: String,
    },

    /// The arithmetic of each layer depends on the depth or on its own number.
    #[error("`{key}` is {value}: {why}")]
    DependsOnDepth {
        /// The key of the setting.
        key: String,
        /// Its value.
        value: String,
        /// What the loader makes of it.
        why: &'static str,
    },

    /// A module name names a layer in a way that cannot be followed.
    #[error("`{key}` holds `{name}`, whose layer number cannot be followed to the new layers")]
    LayerName {
        /// The key that holds the name.
        key: String,
        /// The name or pattern.
        name: String,
    },

    /// Two models differ in what shapes tensors or arithmetic.
    #[error("`{key}` is {found} in {model}, but {expected} in {donor}")]
    Disagree {
        /// The key of the setting.
        key: String,
        /// The model that differs.
        model: String,
        /// Its value.
        found: String,
        /// The model whose config is edited.
        donor: String,
        /// The value there.
        expected: String,
    },

    /// The weights cannot be described as the architecture that was asked for.
    #[error(
        "architecture `llama` can be written for Mistral weights only: the base's `{key}` is {found}"
    )]
    Architecture {
        /// The key that tells what the base is.
        key: &'static str,
        /// Its value.
        found: String,
    },
}

impl SettingError {
    /// What a user may do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ByNumber { .. } => Some(
                "a plan that moves layers by whole periods keeps their kinds; so does a list \
                 of kinds in the base's config.json (`layer_types`), for loaders that read one",
            ),
            Self::LoaderByNumber { .. } => Some(
                "a plan that moves layers by whole periods keeps their kinds; a folder (`--to hf`) \
                 lists them where transformers reads a list",
            ),
            _ => None,
        }
    }
}
