//! The config of the deeper model: the base's, with only those keys changed that must change.
//!
//! Some settings stand once a layer, some name layers by number, some tell a layer's kind from its
//! number, and some put the depth into the arithmetic. Each is made right by what the tables of
//! `rules` and `number_rules` know of its key, or refused by the key's name. Values in, values
//! out: nothing here knows of files or tensors.
//!
//! Nested configs of multimodal models (`text_config`) are refused for now.

mod agreement;
mod architecture;
mod arithmetic;
mod by_number;
mod depth;
mod error;
mod gguf;
mod gguf_rules;
mod lists;
mod module_names;
mod names;
mod number_rules;
mod rules;
#[cfg(test)]
mod tests;

use checkpoint::json::Object;

pub use self::depth::{Depth, num_layers, num_prediction_layers, prediction_layers};
pub use self::error::SettingError;
pub use self::gguf::deepen_metadata;
use self::lists::Lists;
use self::rules::LAYER_COUNT_KEYS;

/// What a recipe asks of the config beyond the depth.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes {
    /// The architecture to describe the weights as; `None`: the base's.
    pub architecture: Option<Architecture>,
    /// The type that the weights are cast to, in PyTorch's words (`float16`); `None`: as in the base.
    pub dtype: Option<&'static str>,
}

/// An architecture that weights of another can be described as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `LlamaForCausalLM`, for Mistral weights.
    Llama,
}

impl Architecture {
    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
        }
    }
}

/// The config of a deeper model, and what is to be said of it.
#[derive(Debug, Clone)]
pub struct Deepened {
    /// The donor's config, edited.
    pub config: Object,
    /// What a user should hear, a sentence each.
    pub notes: Vec<String>,
}

/// The config of the model that the plan of `depth` describes.
pub fn deepen(depth: &Depth, changes: &Changes) -> Result<Deepened, SettingError> {
    let num_base_layers = depth.num_base_layers()?;
    let mut config = depth.base().clone();
    let mut notes = Vec::new();

    agreement::check(depth, &mut notes)?;
    if !depth.is_identity(&num_base_layers) {
        for model in depth.models() {
            arithmetic::refuse_depth_dependence(depth.configs[model])?;
        }
        arithmetic::rescale(&mut config, depth, &num_base_layers, &mut notes)?;
        for key in LAYER_COUNT_KEYS {
            if config.contains(key) {
                config.set(key, &depth.layers.len().into());
            }
        }
        let files: Vec<_> = depth.configs.iter().map(|config| Some(*config)).collect();
        let lists = Lists { depth, num_base_layers: &num_base_layers, files: &files };
        lists.edit(&mut config, &[], false)?;
        by_number::fit(&mut config, depth, &num_base_layers, &mut notes)?;
    }
    if let Some(Architecture::Llama) = changes.architecture {
        architecture::write_as_llama(&mut config, depth.configs, &mut notes)?;
    }
    if let Some(dtype) = changes.dtype {
        write_dtype(&mut config, dtype);
    }
    // It names the file that the loader reads instead of the one that is written.
    config.remove("transformers_weights");
    Ok(Deepened { config, notes })
}

/// Another JSON file of the donor that names modules, such as `hf_quant_config.json`, for the new layers.
///
/// `files` holds that file for each model of the plan, where the model has one. Returns `None` where
/// the donor has none. Errors name the key inside the file.
pub fn rename_modules(
    depth: &Depth,
    files: &[Option<&Object>],
) -> Result<Option<Object>, SettingError> {
    let num_base_layers = depth.num_base_layers()?;
    let Some(mut file) = files[depth.donor].cloned() else { return Ok(None) };
    if !depth.is_identity(&num_base_layers) {
        let lists = Lists { depth, num_base_layers: &num_base_layers, files };
        lists.edit(&mut file, &[], true)?;
    }
    Ok(Some(file))
}

/// Sets the type of the weights under the key, or keys, that the config has for it.
///
/// Where it has none, the key is transformers 5's if the config is in that form.
fn write_dtype(config: &mut Object, dtype: &str) {
    const KEYS: [&str; 2] = ["dtype", "torch_dtype"];
    let stated = KEYS.into_iter().filter(|key| config.contains(key)).collect::<Vec<_>>();
    if stated.is_empty() {
        let key = if config.contains("rope_parameters") { KEYS[0] } else { KEYS[1] };
        config.insert(key, &dtype.into());
    }
    for key in stated {
        config.set(key, &dtype.into());
    }
}
