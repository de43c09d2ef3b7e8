//! Which old tensor each new tensor is.
//!
//! A [`Splice`] follows from the models' headers and the plan alone; it knows nothing of shards, and
//! no tensor's bytes are read for it. Every tensor of the sources is accounted for.

use std::collections::HashMap;

use checkpoint::{Checkpoint, Dtype, Encoding};

use crate::anatomy::Anatomy;
use crate::arithmetic::{Rows, Transform, blocks};
use crate::error::{Error, QuantisedError, Result, TensorsError};
use crate::plan::{Action, LayerPlan, LayerRef, Pattern, PlannedLayer, TensorOp};
use crate::quantised::QuantisedModules;
use crate::translation::Translation;

/// A model that a plan takes layers from.
#[derive(Debug)]
pub struct Model {
    /// Its key in the recipe's `[models]`; `None` where the recipe has one `base`.
    pub name: Option<String>,
    /// Its files.
    pub checkpoint: Checkpoint,
    /// Its layers.
    pub anatomy: Anatomy,
}

impl Model {
    /// What it is called in messages.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("the base")
    }
}

/// Which model gives the tensors outside the layers, as indices into the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Globals {
    /// What stands before the layers.
    pub embeddings: usize,
    /// What stands behind the layers, but for the head.
    pub norm: usize,
    /// `lm_head`.
    pub lm_head: usize,
}

impl Globals {
    /// Whether one model gives them all.
    #[must_use]
    pub fn is_one_model(self) -> bool {
        self.embeddings == self.norm && self.norm == self.lm_head
    }
}

/// The new model's tensors, in state-dict order.
#[derive(Debug)]
pub struct Splice {
    /// The tensors.
    pub tensors: Vec<NewTensor>,
    /// What became of the sources' tensors.
    pub accounts: Accounts,
    /// Whether the new model computes what the base does; `None` where the family is not known.
    pub function_preserving: Option<bool>,
    /// The first new layer made of several (`mix`, `slerp`), which no build makes yet.
    pub first_made_layer: Option<usize>,
}

/// A tensor of the new model.
#[derive(Debug, Clone)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// How its elements are stored in the new model.
    pub encoding: Encoding,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The index of the model that it comes from.
    pub model: usize,
    /// The index of its source in that model's [`Checkpoint::tensors`].
    pub source: usize,
    /// The new layer that it belongs to.
    pub layer: Option<usize>,
    /// How many copies of the same source stand before it in the new model.
    pub copy: usize,
    /// What is done to its elements; `None` where its bytes are the source's.
    pub change: Option<Change>,
}

impl NewTensor {
    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.encoding
            .num_bytes(&self.shape)
            .expect("the source's header was checked, and a cast widens no more than 32-fold")
    }

    /// The number of its elements.
    #[must_use]
    pub fn num_elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

/// What is done to a tensor's elements on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Whether all become zero.
    pub zero: bool,
    /// The product of all scales; 1 where there is none.
    pub scale: f64,
    /// The noises, each as a standard deviation relative to the source tensor's RMS, and a seed.
    pub noises: Vec<(f64, u64)>,
    /// The order of its rows, where that is not the same in all forms.
    pub rows: Option<Rows>,
    /// What is added to the stored values before, and after: gemma's norms in GGUF are greater by 1.
    pub added: [f32; 2],
}

impl Change {
    /// No operation; where a tensor has this change, it is cast.
    #[must_use]
    pub fn nothing() -> Self {
        Self { zero: false, scale: 1.0, noises: Vec::new(), rows: None, added: [0.0; 2] }
    }

    /// Whether the values stay what they are, but for a cast and another form.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.zero && self.scale.to_bits() == 1_f64.to_bits() && self.noises.is_empty()
    }
}

/// What became of the sources' tensors, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Source tensors that stand in the new model once.
    pub copied: usize,
    /// Source tensors that stand in it more than once.
    pub repeated: usize,
    /// Source tensors that the plan drops.
    pub dropped: usize,
}

impl Splice {
    /// Follows `plan` through `models`; `translation` says how tensors are stored in the new one.
    pub fn new(
        models: &[Model],
        plan: &LayerPlan,
        globals: Globals,
        translation: &Translation,
    ) -> Result<Self> {
        refuse_unlike_models(models)?;
        if let Some(dtype) = translation.dtype {
            refuse_cast_of_quantised(models, dtype.encoding())?;
        }
        let mut builder = Builder {
            models,
            quantised: models.iter().map(|m| QuantisedModules::of(&m.checkpoint)).collect(),
            translation,
            tensors: Vec::new(),
            copies: HashMap::new(),
        };
        builder.globals(globals, Side::Before)?;
        for (j, layer) in plan.layers().iter().enumerate() {
            builder.layer(j, layer, plan.ops())?;
        }
        builder.behind(globals.norm, plan.num_layers())?;
        builder.globals(globals, Side::After)?;
        let tensors = builder.tensors;

        refuse_idle_operations(plan, &tensors, models)?;
        let mut times: HashMap<(usize, usize), usize> = HashMap::new();
        for tensor in &tensors {
            *times.entry((tensor.model, tensor.source)).or_default() += 1;
        }
        let num_sources: usize = models.iter().map(|m| m.checkpoint.tensors().len()).sum();
        let accounts = Accounts {
            copied: times.values().filter(|&&n| n == 1).count(),
            repeated: times.values().filter(|&&n| n > 1).count(),
            dropped: num_sources - times.len(),
        };
        let function_preserving = function_preserving(models, plan, globals, &tensors);
        let is_made = |layer: &PlannedLayer| layer.source().is_none();
        let first_made_layer = plan.layers().iter().position(is_made);
        Ok(Self { tensors, accounts, function_preserving, first_made_layer })
    }

    /// The number of parameters: elements of all tensors.
    #[must_use]
    pub fn num_parameters(&self) -> u64 {
        self.tensors.iter().map(NewTensor::num_elements).sum()
    }

    /// The length of all tensors in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(NewTensor::bytes).sum()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

struct Builder<'a> {
    models: &'a [Model],
    quantised: Vec<QuantisedModules<'a>>,
    translation: &'a Translation,
    tensors: Vec<NewTensor>,
    /// How often each (model, tensor) has been taken so far.
    copies: HashMap<(usize, usize), usize>,
}

impl Builder<'_> {
    fn globals(&mut self, globals: Globals, side: Side) -> Result<()> {
        for (m, model) in self.models.iter().enumerate() {
            let indices = match side {
                Side::Before => &model.anatomy.before,
                Side::After => &model.anatomy.after,
            };
            for &i in indices {
                let name = &model.checkpoint.tensors()[i].name;
                let giver = match side {
                    Side::Before => globals.embeddings,
                    Side::After if is_head(name) => globals.lm_head,
                    Side::After => globals.norm,
                };
                if giver == m {
                    self.push(name.clone(), m, i, None, None)?;
                }
            }
        }
        Ok(())
    }

    fn layer(&mut self, j: usize, layer: &PlannedLayer, ops: &[TensorOp]) -> Result<()> {
        // A made layer has the tensors of the first layer that it is made of.
        let LayerRef { model, layer: source } = layer.sources()[0];
        let anatomy = &self.models[model].anatomy;
        let (prefix, tensors) = (anatomy.prefix.clone(), anatomy.layers[source].clone());
        let ops: Vec<&TensorOp> = layer.ops.iter().map(|&op| &ops[op]).collect();
        for tensor in &tensors {
            let change = change(&ops, &tensor.name);
            if change.is_some() {
                self.refuse_change_of_quantised(model, tensor.tensor)?;
            }
            let name = format!("{prefix}.{j}.{}", tensor.name);
            self.push(name, model, tensor.tensor, Some(j), change)?;
        }
        Ok(())
    }

    /// The blocks behind the last layer move to the new depth, once.
    fn behind(&mut self, model: usize, num_layers: usize) -> Result<()> {
        let anatomy = &self.models[model].anatomy;
        let prefix = &anatomy.prefix;
        for (i, block) in anatomy.behind.iter().enumerate() {
            let layer = num_layers + i;
            for tensor in block {
                let name = format!("{prefix}.{layer}.{}", tensor.name);
                self.push(name, model, tensor.tensor, Some(layer), None)?;
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        name: String,
        model: usize,
        source: usize,
        layer: Option<usize>,
        change: Option<Change>,
    ) -> Result<()> {
        let checkpoint = &self.models[model].checkpoint;
        let tensor = &checkpoint.tensors()[source];
        if self.translation.drops(&tensor.name) {
            return Ok(());
        }
        let encoding = self.translation.encoding(tensor)?;
        let change = change.filter(|change| !change.is_nothing());
        let change = self.translation.change(checkpoint, tensor, encoding, change)?;
        if let Some(change) = &change {
            Transform::cast(tensor.encoding, encoding)
                .map_err(|source| Error::Unsupported { tensor: tensor.name.clone(), source })?;
            if let (Encoding::Blocks(_), true) = (encoding, encoding == tensor.encoding) {
                refuse_change_of_blocks(tensor, change)?;
            }
        }
        let copy = self.copies.entry((model, source)).or_default();
        self.tensors.push(NewTensor {
            name,
            encoding,
            shape: tensor.shape.clone(),
            model,
            source,
            layer,
            copy: *copy,
            change,
        });
        *copy += 1;
        Ok(())
    }

    /// Refuses an operation on a tensor whose values are not the numbers that it stores.
    fn refuse_change_of_quantised(&self, model: usize, tensor: usize) -> Result<()> {
        let tensor = &self.models[model].checkpoint.tensors()[tensor];
        match self.quantised[model].mate_of(&tensor.name) {
            None => Ok(()),
            Some(mate) => Err(QuantisedError::ChangeOfQuantised {
                tensor: tensor.name.clone(),
                mate: mate.name.clone(),
                encoding: mate.encoding,
            }
            .into()),
        }
    }
}

/// Refuses what cannot be done to quantised blocks without decoding them.
fn refuse_change_of_blocks(tensor: &checkpoint::Tensor, change: &Change) -> Result<()> {
    let Encoding::Blocks(ggml_type) = tensor.encoding else { return Ok(()) };
    if change.zero {
        return Ok(());
    }
    let (name, found) = (tensor.name.clone(), tensor.encoding);
    if !change.noises.is_empty() {
        return Err(QuantisedError::NoiseOfBlocks { tensor: name, found }.into());
    }
    if !blocks::can_scale(ggml_type, change.scale) {
        return Err(
            QuantisedError::ScaleOfBlocks { tensor: name, found, factor: change.scale }.into()
        );
    }
    Ok(())
}

fn is_head(name: &str) -> bool {
    name.split('.').any(|part| part == "lm_head" || part == "embed_out")
}

/// What the operations that match `name` do together: zero wins, scales multiply, noise is last.
fn change(ops: &[&TensorOp], name: &str) -> Option<Change> {
    let mut change = Change::nothing();
    let mut matching = ops.iter().filter(|op| op.pattern.matches(name)).peekable();
    matching.peek()?;
    for op in matching {
        match op.action {
            Action::Zero => change.zero = true,
            Action::Scale(factor) => change.scale *= factor,
            Action::Noise { sigma, seed } => change.noises.push((sigma, seed)),
        }
    }
    Some(change)
}

/// Refuses an operation whose pattern matches no tensor of the layers that it stands at.
fn refuse_idle_operations(plan: &LayerPlan, tensors: &[NewTensor], models: &[Model]) -> Result<()> {
    let mut names: HashMap<usize, Vec<&str>> = HashMap::new();
    for tensor in tensors {
        if let Some(layer) = tensor.layer {
            let skip = models[tensor.model].anatomy.prefix.len() + 2 + layer.to_string().len();
            names.entry(layer).or_default().push(&tensor.name[skip..]);
        }
    }
    for (i, op) in plan.ops().iter().enumerate() {
        let works = plan.layers().iter().enumerate().any(|(j, layer)| {
            layer.ops.contains(&i) && names[&j].iter().any(|name| op.pattern.matches(name))
        });
        if !works {
            return Err(plan.op_matches_nothing(i).into());
        }
    }
    Ok(())
}

/// Refuses models whose layers are not of one shape.
fn refuse_unlike_models(models: &[Model]) -> Result<()> {
    let [first, others @ ..] = models else { return Ok(()) };
    let label = |model: &Model| model.label().to_owned();
    for other in others {
        if other.anatomy.prefix != first.anatomy.prefix {
            return Err(TensorsError::UnlikeNames {
                first: label(first),
                first_prefix: first.anatomy.prefix.clone(),
                other: label(other),
                other_prefix: other.anatomy.prefix.clone(),
            }
            .into());
        }
        let shapes = shapes_by_name(first);
        for (name, (tensor, shape)) in shapes_by_name(other) {
            if let Some((_, expected)) = shapes.get(&name)
                && *expected != shape
            {
                return Err(TensorsError::UnlikeShapes {
                    tensor: tensor.to_owned(),
                    first: label(first),
                    expected: expected.to_vec(),
                    other: label(other),
                    found: shape.to_vec(),
                }
                .into());
            }
        }
    }
    Ok(())
}

/// The shape of each tensor by its name, in its layer or outside, with one tensor that has it.
fn shapes_by_name(model: &Model) -> std::collections::BTreeMap<String, (&str, &[usize])> {
    let tensors = model.checkpoint.tensors();
    let layered = model.anatomy.layers.iter().flatten().map(|t| (t.name.clone(), t.tensor));
    let globals = model.anatomy.before.iter().chain(&model.anatomy.after);
    let globals = globals.map(|&i| (tensors[i].name.clone(), i));
    layered
        .chain(globals)
        .map(|(name, i)| (name, (tensors[i].name.as_str(), tensors[i].shape.as_slice())))
        .collect()
}

/// Refuses a cast where tensors are numbers only together with their scales.
///
/// Blocks of a GGUF file are whole in themselves; what becomes of those, the translation says.
fn refuse_cast_of_quantised(models: &[Model], dtype: Encoding) -> Result<()> {
    for model in models.iter().filter(|model| model.checkpoint.gguf().is_none()) {
        let config = model.checkpoint.config();
        if config.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return Err(QuantisedError::CastOfQuantised {
                config: model.checkpoint.config_path(),
                dtype,
            }
            .into());
        }
        if let Some(tensor) = QuantisedModules::of(&model.checkpoint).first() {
            return Err(QuantisedError::CastBesideQuantised {
                tensor: tensor.name.clone(),
                found: tensor.encoding,
                dtype,
            }
            .into());
        }
    }
    Ok(())
}

/// Whether, leaving out the layers that are the identity, 0..n of one model remain, untouched.
fn function_preserving(
    models: &[Model],
    plan: &LayerPlan,
    globals: Globals,
    tensors: &[NewTensor],
) -> Option<bool> {
    let family = models[0].anatomy.family?;
    let ends: Vec<Pattern> = family.branch_ends.iter().map(|end| Pattern::component(end)).collect();
    let mut zeroed = vec![vec![true; ends.len()]; plan.num_layers()];
    let mut untouched = vec![true; plan.num_layers()];
    let mut cast_loses = false;
    for tensor in tensors {
        let source = models[tensor.model].checkpoint.tensors()[tensor.source].encoding;
        cast_loses |= tensor.encoding != source && tensor.encoding != Dtype::F32.into();
        let Some(layer) = tensor.layer.filter(|&layer| layer < plan.num_layers()) else { continue };
        let zero = tensor.change.as_ref().is_some_and(|change| change.zero);
        for (zeroed, end) in zeroed[layer].iter_mut().zip(&ends) {
            *zeroed &= zero || !end.matches(&tensor.name);
        }
        untouched[layer] &= tensor.change.as_ref().is_none_or(Change::is_nothing);
    }
    let kept = (0..plan.num_layers()).filter(|&j| !zeroed[j].iter().all(|&zeroed| zeroed));
    let mut next = 0;
    // What stands before and behind the layers must be the same model's.
    let only_model = globals.embeddings;
    if !globals.is_one_model() {
        return Some(false);
    }
    for j in kept {
        let Some(source) = plan.layers()[j].source() else { return Some(false) };
        if source.layer != next || source.model != only_model || !untouched[j] {
            return Some(false);
        }
        next += 1;
    }
    Some(models[only_model].anatomy.num_layers() == next && !cast_loses)
}
