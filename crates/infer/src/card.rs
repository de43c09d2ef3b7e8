//! The part of a model that lies on one of NVIDIA's GPUs, and runs there by kernels of our own.
//!
//! Hidden states cross over as f32: (n, `hidden_size`), in the processor's memory on this side.

use std::cell::RefCell;
use std::collections::HashMap;

use checkpoint::Encoding;
use checkpoint::gguf::GgmlType;

use crate::anatomy;
use crate::config::DecoderConfig;
use crate::sampling::Sampling;
use crate::stored::Storage;

#[cfg(feature = "cuda")]
#[path = "card/engine.rs"]
mod engine;
#[cfg(not(feature = "cuda"))]
#[path = "card/no_engine.rs"]
mod engine;
#[cfg(feature = "cuda")]
#[path = "card/load.rs"]
mod load;
pub(crate) use engine::{Card, CardCache, CardHistory, Flight, unsupported, work_bytes};

/// Tokens of a prompt that run at once: quantised matrices are unpacked once for them.
pub(crate) const PIECE: usize = 2048;

/// Matrices that a GPU has as one, each behind the one before.
pub(crate) const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
/// As those.
pub(crate) const GATE_UP: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];

/// How the next token of a sequence is chosen where its logits are.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "it is the GPU's to read"))]
pub(crate) struct Choosing<'a> {
    pub(crate) sampling: &'a Sampling,
    /// From 0 to 1: it decides.
    pub(crate) draw: f64,
    /// Of this sequence, if there is any that matters.
    pub(crate) history: Option<&'a mut CardHistory>,
}

/// The bytes that the tensor called `name` takes on a GPU; `encoding` tells how tensors are stored.
pub(crate) fn bytes(
    name: &str,
    shape: &[usize],
    storage: Storage,
    encoding: &dyn Fn(&str) -> Encoding,
) -> u64 {
    let elements = shape.iter().product::<usize>() as u64;
    let forms = beside(name).into_iter().map(|name| form(storage, encoding(&name), shape));
    match together(forms) {
        // A scale of 16 bits for 32; twenty bytes beside the codes of 256.
        Form::Q8_0 => elements + elements / 16,
        Form::Q4K => elements / 2 + elements * 20 / 256,
        Form::Dense if shape.len() == 2 => elements * 2,
        Form::Dense => elements * 4,
    }
}

/// Whether any of the tensors from layer `first` on, or outside the layers, lies there in codes; `encoding` as for
/// [`bytes`], `None` for one that is missing.
pub(crate) fn has_codes(
    config: &DecoderConfig,
    first: usize,
    storage: Storage,
    encoding: &dyn Fn(&str) -> Option<Encoding>,
) -> bool {
    let there = anatomy::expected(config).into_iter();
    let mut there =
        there.filter(|it| anatomy::layer_of(&it.name).is_none_or(|layer| layer >= first));
    there.any(|it| {
        encoding(&it.name).is_some_and(|encoding| form(storage, encoding, &it.shape) != Form::Dense)
    })
}

/// Numbers that tensors have in common which are one memory on a GPU: matrices that lie there as one are shared
/// as one.
#[derive(Debug, Default)]
pub(crate) struct SharedNumbers(RefCell<HashMap<Vec<usize>, usize>>);

impl SharedNumbers {
    /// That of the tensor called `name`; `same_as` has those of tensors by themselves.
    pub(crate) fn of(&self, name: &str, same_as: &dyn Fn(&str) -> Option<usize>) -> Option<usize> {
        /// More than a model has tensors.
        const FIRST: usize = 1 << 40;
        let group = beside(name);
        let Some(place) = group.iter().position(|it| it == name).filter(|_| group.len() > 1) else {
            return same_as(name);
        };
        let key = group.iter().map(|it| same_as(it)).collect::<Option<Vec<usize>>>()?;
        let mut known = self.0.borrow_mut();
        let next = known.len();
        let number = *known.entry(key).or_insert(next);
        Some(FIRST + number * group.len().max(QKV.len()) + place)
    }
}

/// The names of the tensors that are one matrix with the one called `name`, which is one of them.
fn beside(name: &str) -> Vec<String> {
    let groups = [&QKV[..], &GATE_UP[..]];
    let mut members = groups.iter().flat_map(|&group| group.iter().map(move |&it| (group, it)));
    let is_it = |(_, it): &(&[&str], &str)| name.contains(&format!(".{it}.weight"));
    match members.find(is_it) {
        Some((group, it)) => group.iter().map(|&other| name.replace(it, other)).collect(),
        None => vec![name.to_owned()],
    }
}

/// How a tensor lies on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Matrices in the 16 bits of the arithmetic, vectors in f32.
    Dense,
    /// As `Q8_0`.
    Q8_0,
    /// As `Q4_K`.
    Q4K,
}

/// How a tensor of this encoding and shape is to lie on a GPU, if it lies by itself: blocks that the kernels
/// do not have are decoded.
pub(crate) fn form(storage: Storage, encoding: Encoding, shape: &[usize]) -> Form {
    let inputs = shape.last().copied().unwrap_or(0);
    match storage.blocks(encoding, shape) {
        Some(GgmlType::Q8_0) if inputs.is_multiple_of(64) => Form::Q8_0,
        Some(GgmlType::Q4_K) => Form::Q4K,
        _ => Form::Dense,
    }
}

/// The form of what is one matrix: that of all, or else numbers.
pub(crate) fn together(mut forms: impl Iterator<Item = Form>) -> Form {
    let first = forms.next().unwrap_or(Form::Dense);
    if forms.all(|other| other == first) { first } else { Form::Dense }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn matrices_that_are_one_are_shared_as_one() {
        // Layers 0, 1 and 2 are copies, but for layer 1's up projection.
        let same_as = |name: &str| {
            let member = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
                .iter()
                .position(|it| name.contains(it))?;
            Some(if name.contains(".1.") && member == 4 { 99 } else { member })
        };
        let shared = SharedNumbers::default();
        let number = |layer: usize, name: &str| {
            shared.of(&format!("model.layers.{layer}.{name}.weight"), &same_as).unwrap()
        };
        for name in QKV.iter().chain(&GATE_UP).chain(&["mlp.down_proj"]) {
            assert_eq!(number(0, name), number(2, name), "{name}");
            let is_alone = GATE_UP.contains(name);
            assert_eq!(number(0, name) != number(1, name), is_alone, "{name}");
        }
        // Each member is memory of its own.
        let all: HashSet<usize> = [QKV.as_slice(), &GATE_UP, &["mlp.down_proj"]]
            .concat()
            .into_iter()
            .map(|name| number(0, name))
            .collect();
        assert_eq!(all.len(), 6);
        let nothing = |_: &str| None;
        assert_eq!(shared.of("model.layers.0.mlp.up_proj.weight", &nothing), None);
    }

    #[test]
    fn matrices_that_are_one_are_planned_in_one_form() {
        let q4_k_m = |name: &str| {
            let ty = if name.contains("v_proj") { GgmlType::Q6_K } else { GgmlType::Q4_K };
            Encoding::Blocks(ty)
        };
        let planned = |name: &str| {
            let name = format!("model.layers.3.{name}.weight");
            bytes(&name, &[4, 256], Storage::AsStored, &q4_k_m)
        };
        for name in QKV {
            assert_eq!(planned(name), 4 * 256 * 2, "{name}");
        }
        for name in ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"] {
            assert_eq!(planned(name), 4 * 148, "{name}");
        }
    }
}
