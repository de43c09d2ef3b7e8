//! The metadata of a deeper GGUF file: the base's, with only those keys changed that must change.
//!
//! llama.cpp's loaders work out more from layer numbers and from the number of layers than
//! transformers' do, and no list in the file stands against most of it. A plan under which a loader
//! would take a layer for another kind than it was is refused; so is one that would change what all
//! layers compute.

use checkpoint::gguf::metadata::shown;
use checkpoint::gguf::{Metadata, Value};

use super::depth::shortened;
use super::error::SettingError;
use super::gguf_rules::{
    ARCHITECTURE_REFUSALS, COUNTS_THAT_MATTER, InForce, KEY_REFUSALS, LEADING_DENSE, LOADER_RULES,
    LoaderRule, MAX_LAYERS, MINICPM, OTHER_ARRAYS, OTHER_KEYS, OddOne, PER_LAYER, PER_LAYER_OF_ANY,
};

const BLOCK_COUNT: &str = "block_count";
const PREDICTIONS: &str = "nextn_predict_layers";
const WINDOW: &str = "attention.sliding_window";

/// Makes the metadata of a file of `architecture` right for a model whose new layers are copies of
/// `layers`, and returns what a user should hear.
///
/// The base has `num_base_layers` layers; prediction layers, which llama.cpp counts among the
/// blocks, are not among them and stay behind the last. On an error the metadata may be changed.
pub fn deepen_metadata(
    metadata: &mut Metadata,
    architecture: &str,
    layers: &[usize],
    num_base_layers: usize,
) -> Result<Vec<String>, SettingError> {
    let file = File { metadata, architecture, layers, num_base_layers };
    let num_predictions = file.number(PREDICTIONS)?.unwrap_or(0);
    let num_blocks = num_base_layers.saturating_add(num_predictions);
    match file.number(BLOCK_COUNT)? {
        Some(found) if found == num_blocks => {}
        Some(found) => {
            return Err(SettingError::Malformed {
                key: file.key(BLOCK_COUNT),
                expected: "the number of the layers in the file",
                found: format!("{found} where there are {num_blocks}"),
            });
        }
        None => return Err(file.malformed(BLOCK_COUNT, "a number of layers")),
    }
    if let Some(&layer) = layers.iter().find(|&&layer| layer >= num_base_layers) {
        return Err(SettingError::NoSuchLayer { model: 0, layer, num_layers: num_base_layers });
    }
    let num_new_blocks = layers.len() + num_predictions;
    if num_new_blocks > MAX_LAYERS {
        let key = file.key(BLOCK_COUNT);
        return Err(SettingError::TooDeep { key, found: num_new_blocks, max: MAX_LAYERS });
    }
    if layers.iter().copied().eq(0..num_base_layers) {
        return Ok(Vec::new());
    }
    file.refuse_depth_dependence()?;
    for rule in LOADER_RULES {
        file.check_rule(rule)?;
    }
    let lists = file.per_layer_arrays(num_blocks)?;
    let mut notes = Vec::new();
    let bound = file.moved_bound(&mut notes)?;
    let scale = file.residual_scale(&mut notes);

    let key = |suffix: &str| format!("{architecture}.{suffix}");
    for (list, len) in lists {
        let behind = num_base_layers..len;
        let order: Vec<usize> = layers.iter().copied().chain(behind).collect();
        metadata.reorder(&list, &order);
    }
    if let Some(bound) = bound {
        metadata.set(&key(LEADING_DENSE.0), &(bound as u32));
    }
    if let Some(scale) = scale {
        metadata.set(&key(MINICPM.1), &scale);
    }
    metadata.set(&key(BLOCK_COUNT), &(num_new_blocks as u32));
    Ok(notes)
}

/// The base's metadata and the plan.
struct File<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    layers: &'a [usize],
    num_base_layers: usize,
}

impl File<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    fn value(&self, suffix: &str) -> Option<Value<'_>> {
        self.metadata.get(&self.key(suffix))
    }

    fn malformed(&self, suffix: &str, expected: &'static str) -> SettingError {
        let found =
            self.value(suffix).map_or("nothing".to_owned(), |value| shortened(&shown(value)));
        SettingError::Malformed { key: self.key(suffix), expected, found }
    }

    /// A number; `None` also where an array stands in its place.
    fn number(&self, suffix: &str) -> Result<Option<usize>, SettingError> {
        match self.value(suffix) {
            None | Some(Value::Array(_)) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number as usize)),
                None => Err(self.malformed(suffix, "a number that is not negative")),
            },
        }
    }

    fn refuse_depth_dependence(&self) -> Result<(), SettingError> {
        let depends = |key: String, value: String, why| {
            Err(SettingError::DependsOnDepth { key, value: shortened(&value), why })
        };
        if let Some((_, why)) =
            ARCHITECTURE_REFUSALS.iter().find(|(refused, _)| *refused == self.architecture)
        {
            let key = "general.architecture".to_owned();
            return depends(key, self.architecture.to_owned(), why);
        }
        for refusal in KEY_REFUSALS {
            let Some(value) = self.value(refusal.key) else { continue };
            let is_off = match value {
                Value::Array(array) => array.is_empty(),
                value => value.as_u64() == Some(0),
            };
            if !is_off {
                return depends(self.key(refusal.key), shown(value), refusal.why);
            }
        }
        if let Some(loops) = self.number("num_loops")?.filter(|&loops| loops > 1) {
            let why = "the layers are run several times over";
            return depends(self.key("num_loops"), loops.to_string(), why);
        }
        let (old, new) = (self.num_base_layers, self.layers.len());
        for known in COUNTS_THAT_MATTER.iter().filter(|it| it.architecture == self.architecture) {
            let matters = |count| known.counts.contains(&count);
            if old != new && (matters(old) || matters(new)) {
                return depends(
                    self.key(BLOCK_COUNT),
                    format!("{old} and becomes {new}"),
                    known.why,
                );
            }
        }
        Ok(())
    }

    /// Refuses the plan if a loader would take a layer for another kind than its source was.
    fn check_rule(&self, rule: &LoaderRule) -> Result<(), SettingError> {
        if !rule.architectures.is_empty() && !rule.architectures.contains(&self.architecture) {
            return Ok(());
        }
        let window = self.number(WINDOW)?;
        let is_in_force = match rule.in_force {
            InForce::Always => true,
            InForce::WithWindow => {
                window > Some(0) || matches!(self.value(WINDOW), Some(Value::Array(_)))
            }
            InForce::UnlessNoWindow => window != Some(0),
            InForce::WithLayers(count) => self.num_base_layers == count,
        };
        let has_list =
            rule.list.is_some_and(|list| matches!(self.value(list), Some(Value::Array(_))));
        let stated = rule.key.map(|key| self.number(key)).transpose()?.flatten();
        let group = stated.unwrap_or(rule.group);
        if !is_in_force || has_list || group == 0 {
            return Ok(());
        }
        let is_odd = |layer: usize| match rule.odd_one {
            OddOne::First => layer.is_multiple_of(group),
            OddOne::Second => layer % group == 1,
            OddOne::Last => layer % group == group - 1,
            OddOne::OfAll => layer == 0,
        };
        self.check_kinds(is_odd, is_odd, rule.kinds, || match rule.key {
            Some(key) => self.key(key),
            None => "general.architecture".to_owned(),
        })
    }

    /// Refuses the plan unless each new layer is by `new` what its source was by `old`.
    fn check_kinds(
        &self,
        old: impl Fn(usize) -> bool,
        new: impl Fn(usize) -> bool,
        (yes, no): (&'static str, &'static str),
        key: impl Fn() -> String,
    ) -> Result<(), SettingError> {
        let misfit = |&(layer, &source): &(usize, &usize)| new(layer) != old(source);
        let Some((layer, &source_layer)) = self.layers.iter().enumerate().find(misfit) else {
            return Ok(());
        };
        let (expected, found) = if old(source_layer) { (yes, no) } else { (no, yes) };
        let architecture = self.architecture.to_owned();
        Err(SettingError::LoaderByNumber {
            key: key(),
            architecture,
            layer,
            source_layer,
            expected,
            found,
        })
    }

    /// How many layers at the bottom are dense in the new model, where that has changed.
    fn moved_bound(&self, notes: &mut Vec<String>) -> Result<Option<usize>, SettingError> {
        let (suffix, dense, experts) = LEADING_DENSE;
        let Some(old) = self.number(suffix)? else { return Ok(None) };
        let new = self.layers.iter().take_while(|&&layer| layer < old).count();
        // A bound above all layers says nothing of where a layer with experts would begin.
        let new = if new == self.layers.len() { new.max(old) } else { new };
        self.check_kinds(|i| i < old, |i| i < new, (dense, experts), || self.key(suffix))?;
        if new == old {
            return Ok(None);
        }
        let key = self.key(suffix);
        notes.push(format!("`{key}` set from {old} to {new}, as the layers have moved"));
        Ok(Some(new))
    }

    /// The scale of what `MiniCPM`'s layers add, which loaders otherwise work out from the depth.
    fn residual_scale(&self, notes: &mut Vec<String>) -> Option<f32> {
        let (architecture, suffix, numerator) = MINICPM;
        if self.architecture != architecture || self.value(suffix).is_some() {
            return None;
        }
        let scale = (numerator / (self.num_base_layers as f64).sqrt()) as f32;
        let key = self.key(suffix);
        notes.push(format!(
            "`{key}` set to {scale}: loaders otherwise take it from the layer count"
        ));
        Some(scale)
    }

    /// The arrays to be re-ordered, and their lengths; arrays that are not known are refused.
    ///
    /// An array has a value for each layer, or for each block, prediction layers included.
    fn per_layer_arrays(&self, num_blocks: usize) -> Result<Vec<(String, usize)>, SettingError> {
        let own = self.key("");
        let mut arrays = Vec::new();
        for key in self.metadata.keys() {
            let Some(Value::Array(array)) = self.metadata.get(key) else { continue };
            let (len, suffix) = (array.len(), key.strip_prefix(&own));
            if key.starts_with("tokenizer.") {
                continue; // long, and full of names of any kind
            }
            let named =
                array.iter().find_map(|value| value.as_str().filter(|it| names_a_layer(it)));
            if let Some(name) = named {
                return Err(SettingError::LayerName { key: key.to_owned(), name: name.to_owned() });
            }
            let is_per_layer = suffix.is_some_and(|suffix| PER_LAYER.contains(&suffix))
                || PER_LAYER_OF_ANY.contains(&key);
            if is_per_layer {
                if len != self.num_base_layers && len != num_blocks {
                    let key = key.to_owned();
                    return Err(SettingError::ListLength { key, found: len, expected: num_blocks });
                }
                arrays.push((key.to_owned(), len));
                continue;
            }
            let is_known = suffix.is_some_and(|suffix| OTHER_ARRAYS.contains(&suffix))
                || OTHER_KEYS.iter().any(|beginning| key.starts_with(beginning));
            if !is_known && (len == self.num_base_layers || len == num_blocks) {
                return Err(SettingError::UnknownList { key: key.to_owned(), len });
            }
        }
        Ok(arrays)
    }
}

/// Whether a text is the name of a layer's tensor.
fn names_a_layer(text: &str) -> bool {
    let number = text.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
}
