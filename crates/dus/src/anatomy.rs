//! Which of a checkpoint's tensors belong to which layer.
//!
//! A tensor belongs to a layer if its name has a layer number: `model.layers.7.mlp.up_proj.weight`,
//! `h.7.attn.c_attn.weight`. Nothing here is one family's; where a family's table knows the names,
//! their shapes are checked against the config as well.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::family::{self, Family};
use checkpoint::{Checkpoint, Tensor};

use crate::error::{Error, Result, TensorsError};
use crate::settings;

/// A checkpoint's tensors, sorted into layers and the rest.
#[derive(Debug)]
pub struct Anatomy {
    /// What stands before the layer number, such as `model.layers`.
    pub prefix: String,
    /// The tensors of each layer.
    pub layers: Vec<Vec<LayerTensor>>,
    /// Blocks behind the last layer that the config promises, which predict further tokens.
    pub behind: Vec<Vec<LayerTensor>>,
    /// The tensors before the layers, in state-dict order, as indices into the checkpoint's.
    pub before: Vec<usize>,
    /// The tensors behind the layers, likewise.
    pub after: Vec<usize>,
    /// The family's table, if there is one.
    pub family: Option<&'static Family>,
}

/// A tensor of a layer.
#[derive(Debug, Clone)]
pub struct LayerTensor {
    /// Its name inside the layer, such as `self_attn.o_proj.weight`.
    pub name: String,
    /// Its index in [`Checkpoint::tensors`].
    pub tensor: usize,
}

impl Anatomy {
    /// Sorts the tensors of `checkpoint`; those of a layer come in state-dict order.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        let (_, num_layers) = settings::num_layers(config)
            .map_err(|source| Error::Setting { config: checkpoint.config_path(), source })?;
        let num_behind = settings::num_prediction_layers(config);
        let family = Family::of(config);
        let stacks = stacks(checkpoint.tensors());
        let prefix = main_stack(&stacks, family, num_layers)?;

        let mut blocks: BTreeMap<usize, Vec<LayerTensor>> = BTreeMap::new();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (i, tensor) in checkpoint.tensors().iter().enumerate() {
            match split_layer(&tensor.name) {
                Some((stack, layer, name)) if stack == prefix => blocks
                    .entry(layer)
                    .or_default()
                    .push(LayerTensor { name: name.to_owned(), tensor: i }),
                _ if is_after(&tensor.name, family, !blocks.is_empty()) => after.push(i),
                _ => before.push(i),
            }
        }
        for layer in 0..num_layers {
            if !blocks.contains_key(&layer) {
                return Err(TensorsError::LayerMissing { prefix, layer, num_layers }.into());
            }
        }
        if let Some((&layer, _)) = blocks.range(num_layers.saturating_add(num_behind)..).next() {
            return Err(TensorsError::LayerNotPromised { prefix, layer, num_layers }.into());
        }

        if let Some(family) = family {
            check_shapes(checkpoint, family, &blocks)?;
            check_required(checkpoint, family, &blocks, num_layers)?;
            let order = |table: &'static [family::Tensor]| {
                move |name: &str| table.iter().position(|t| t.name == name).unwrap_or(table.len())
            };
            let name = |&i: &usize| checkpoint.tensors()[i].name.as_str();
            before.sort_by_key(|i| order(family.before)(name(i)));
            after.sort_by_key(|i| order(family.after)(name(i)));
            for layer in blocks.values_mut() {
                layer.sort_by_key(|tensor| order(family.layer)(&tensor.name));
            }
        }
        let mut blocks = blocks.into_values();
        let layers = blocks.by_ref().take(num_layers).collect();
        Ok(Self { prefix, layers, behind: blocks.collect(), before, after, family })
    }

    /// The number of layers.
    #[must_use]
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }
}

/// Splits `model.layers.7.mlp.up_proj.weight` into `model.layers`, 7 and `mlp.up_proj.weight`.
///
/// The first number counts: behind it, experts are numbered too.
fn split_layer(name: &str) -> Option<(&str, usize, &str)> {
    let mut begin = 0;
    for part in name.split('.') {
        let end = begin + part.len();
        // `h.03` would be a second `h.3`; a number that no layer can have is still one.
        let is_number = part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty();
        if begin > 0 && end < name.len() && is_number && (part == "0" || !part.starts_with('0')) {
            let number = part.parse().unwrap_or(usize::MAX);
            return Some((&name[..begin - 1], number, &name[end + 1..]));
        }
        begin = end + 1;
    }
    None
}

/// The layer numbers under each prefix.
fn stacks(tensors: &[Tensor]) -> BTreeMap<&str, BTreeSet<usize>> {
    let mut stacks: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for tensor in tensors {
        if let Some((prefix, layer, _)) = split_layer(&tensor.name) {
            stacks.entry(prefix).or_default().insert(layer);
        }
    }
    stacks
}

/// The stack whose depth the config gives: a model may have others, such as a vision tower.
fn main_stack(
    stacks: &BTreeMap<&str, BTreeSet<usize>>,
    family: Option<&Family>,
    num_layers: usize,
) -> Result<String> {
    if let Some(family) = family {
        // Another stack of the same depth goes by layer too, and the table does not know how.
        let is_as_deep = |found: &BTreeSet<usize>| {
            found.len() == num_layers && found.last() == Some(&(num_layers - 1))
        };
        let other =
            stacks.iter().find(|(prefix, found)| **prefix != family.layers && is_as_deep(found));
        return match other {
            None => Ok(family.layers.to_owned()),
            Some((other, _)) => Err(TensorsError::SeveralStacks {
                prefixes: format!("{}`, `{other}", family.layers),
                num_layers,
            }
            .into()),
        };
    }
    if let [(prefix, _)] = *stacks.iter().collect::<Vec<_>>() {
        return Ok((*prefix).to_owned());
    }
    let deep_enough =
        |(_, layers): &(&&str, &BTreeSet<usize>)| (0..num_layers).all(|i| layers.contains(&i));
    match *stacks.iter().filter(deep_enough).map(|(prefix, _)| *prefix).collect::<Vec<_>>() {
        [prefix] => Ok(prefix.to_owned()),
        [] => Err(TensorsError::NoLayers { num_layers }.into()),
        ref several => {
            Err(TensorsError::SeveralStacks { prefixes: several.join("`, `"), num_layers }.into())
        }
    }
}

fn is_after(name: &str, family: Option<&Family>, behind_a_layer: bool) -> bool {
    match family {
        Some(family) => !family.before.iter().any(|tensor| tensor.name == name),
        None => behind_a_layer,
    }
}

/// Checks every tensor whose name the table knows against the config.
fn check_shapes(
    checkpoint: &Checkpoint,
    family: &Family,
    blocks: &BTreeMap<usize, Vec<LayerTensor>>,
) -> Result<()> {
    let check =
        |table: &[family::Tensor], name: &str, tensor: &Tensor| -> Result<(), TensorsError> {
            let Some(known) = table.iter().find(|known| known.name == name) else { return Ok(()) };
            let sizes: Option<Vec<u64>> =
                known.shape.iter().map(|dim| dim.size(checkpoint.config(), family)).collect();
            let Some(expected) = sizes else { return Ok(()) };
            if tensor.shape.iter().map(|&dim| dim as u64).eq(expected.iter().copied()) {
                return Ok(());
            }
            let keys: Vec<&str> = known.shape.iter().map(|dim| dim.keys()).collect();
            Err(TensorsError::Shape {
                tensor: tensor.name.clone(),
                file: checkpoint.files()[tensor.file].path.clone(),
                found: tensor.shape.clone(),
                expected,
                keys: keys.join("; "),
            })
        };
    for tensor in checkpoint.tensors() {
        check(family.before, &tensor.name, tensor)?;
        check(family.after, &tensor.name, tensor)?;
    }
    for LayerTensor { name, tensor } in blocks.values().flatten() {
        check(family.layer, name, &checkpoint.tensors()[*tensor])?;
    }
    Ok(())
}

/// Checks that no tensor is missing that every model of the family has.
fn check_required(
    checkpoint: &Checkpoint,
    family: &Family,
    blocks: &BTreeMap<usize, Vec<LayerTensor>>,
    num_layers: usize,
) -> Result<()> {
    let missing =
        |tensor: String| TensorsError::TensorMissing { tensor, dir: checkpoint.path().to_owned() };
    for known in family.before.iter().chain(family.after).filter(|known| known.required) {
        checkpoint.tensor(known.name).ok_or_else(|| missing(known.name.to_owned()))?;
    }
    for (layer, tensors) in blocks.range(..num_layers) {
        for known in family.layer.iter().filter(|known| known.required) {
            if !tensors.iter().any(|tensor| tensor.name == known.name) {
                return Err(missing(format!("{}.{layer}.{}", family.layers, known.name)).into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_layer() {
        let split = split_layer("model.layers.3.mlp.experts.7.w1.weight");
        assert_eq!(split, Some(("model.layers", 3, "mlp.experts.7.w1.weight")));
        assert_eq!(split_layer("h.11.ln_1.bias"), Some(("h", 11, "ln_1.bias")));
        assert_eq!(split_layer("model.norm.weight"), None);
        assert_eq!(split_layer("conv1.0"), None);
        assert_eq!(split_layer("0.weight"), None);
    }
}
