//! Which tensors are numbers only together with others: quantised weights and their scales.
//!
//! Copied byte for byte they travel together; arithmetic on one of them alone would be wrong.

use std::collections::{HashMap, HashSet};

use checkpoint::{Checkpoint, Dtype, Tensor};

/// The modules of a checkpoint that hold quantised weights, each with one of these.
#[derive(Debug)]
pub(crate) struct QuantisedModules<'a>(HashMap<&'a str, &'a Tensor>);

impl<'a> QuantisedModules<'a> {
    pub(crate) fn of(checkpoint: &'a Checkpoint) -> Self {
        let tensors = checkpoint.tensors();
        let scaled: HashSet<&str> =
            tensors.iter().filter(|t| is_scale(&t.name)).map(|t| module(&t.name)).collect();
        let is_quantised = |tensor: &&Tensor| {
            let Some(dtype) = tensor.encoding.dtype() else { return false };
            is_small_float(dtype) || is_code(dtype) && scaled.contains(module(&tensor.name))
        };
        let quantised = tensors.iter().filter(is_quantised);
        Self(quantised.map(|tensor| (module(&tensor.name), tensor)).collect())
    }

    /// The quantised tensor in the module of the tensor called `name`, if there is one.
    pub(crate) fn mate_of(&self, name: &str) -> Option<&'a Tensor> {
        self.0.get(module(name)).copied()
    }

    /// One of all quantised tensors: the first by name, small floats before integers.
    pub(crate) fn first(&self) -> Option<&'a Tensor> {
        let key =
            |tensor: &&Tensor| (tensor.encoding.dtype().is_some_and(is_code), tensor.name.clone());
        self.0.values().copied().min_by_key(key)
    }
}

/// `mlp.up_proj` of `mlp.up_proj.weight_scale`.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

/// Whether `name` is that of the numbers that quantised weights are multiplied by.
fn is_scale(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    last.contains("scale") || last.contains("absmax")
}

/// Whether weights of `dtype` are floats too small to do without a scale.
fn is_small_float(dtype: Dtype) -> bool {
    !is_floating(dtype) && dtype != Dtype::C64 && dtype.to_string().starts_with('F')
}

/// Whether weights of `dtype` are integers that packed weights come in; wider ones are counters.
fn is_code(dtype: Dtype) -> bool {
    use Dtype::{I8, I16, I32, U8, U16, U32};
    matches!(dtype, I8 | U8 | I16 | U16 | I32 | U32)
}

/// Whether elements of `dtype` are floating-point numbers that stand for themselves.
pub(crate) fn is_floating(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}
