//! Operations on tensors: which ones, and what is done to them.

use std::fmt;

use super::error::Spanned;

/// An operation on the tensors of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorOp {
    /// Which tensors of a layer it is for.
    pub pattern: Pattern,
    /// Whether it is only for new layers. [`PlannedLayer::ops`](super::PlannedLayer::ops) has this
    /// decided.
    pub only_new: bool,
    /// What is done.
    pub action: Action,
}

/// What is done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Every element becomes zero. It wins over all else.
    Zero,
    /// Every element is multiplied by a finite factor; several factors multiply.
    Scale(f64),
    /// Gaussian noise is added, after all scaling.
    Noise {
        /// Its standard deviation in units of the source tensor's RMS; finite, at least 0.
        sigma: f64,
        /// What the generator is keyed by, besides tensor name and element.
        seed: u64,
    },
}

/// Which tensors of a layer: a run of whole components of their names, anywhere in them.
///
/// `o_proj` is for `self_attn.o_proj.weight` and `self_attn.o_proj.bias`, and not for `co_proj`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Never empty; `*` stands for any one component.
    pub(super) parts: Vec<String>,
}

impl Pattern {
    /// The pattern for the tensors that have `component` in their names.
    #[must_use]
    pub fn component(component: &str) -> Self {
        Self { parts: vec![component.to_owned()] }
    }

    /// Whether it is for the tensor of this name inside its layer, such as
    /// `self_attn.o_proj.weight`.
    #[must_use]
    pub fn matches(&self, layer_tensor_name: &str) -> bool {
        let components: Vec<&str> = layer_tensor_name.split('.').collect();
        components.windows(self.parts.len()).any(|run| {
            run.iter().zip(&self.parts).all(|(component, part)| part == "*" || part == component)
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("."))
    }
}

impl fmt::Display for TensorOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.only_new {
            f.write_str("new ")?;
        }
        write!(f, "{}: {}", self.pattern, self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Action::Zero => f.write_str("zero"),
            Action::Scale(factor) => write!(f, "scale {}", Number(factor)),
            Action::Noise { sigma, seed: 0 } => write!(f, "noise {}", Number(sigma)),
            Action::Noise { sigma, seed } => write!(f, "noise {} seed={seed}", Number(sigma)),
        }
    }
}

/// A number as the language of plans writes it, with or without exponent, whichever is shorter.
pub(super) struct Number(pub(super) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = format!("{}", self.0);
        let scientific = format!("{:e}", self.0);
        f.write_str(if scientific.len() < plain.len() { &scientific } else { &plain })
    }
}

/// Operations as they stand in a plan, in braces; nothing where there are none.
pub(super) struct Braces<'a>(pub(super) &'a [Spanned<TensorOp>]);

impl fmt::Display for Braces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let ops: Vec<String> = self.0.iter().map(|op| op.node.to_string()).collect();
        write!(f, "{{{}}}", ops.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        let pattern = Pattern { parts: pattern.split('.').map(str::to_owned).collect() };
        assert_eq!(pattern.matches(name), expected, "{pattern} on {name}");
    }

    #[test]
    fn a_pattern_matches_any_run_of_whole_components() {
        check("o_proj", "self_attn.o_proj.weight", true);
        check("o_proj", "self_attn.o_proj.bias", true);
        check("self_attn.o_proj", "self_attn.o_proj.weight", true);
        check("weight", "self_attn.o_proj.weight", true);
        check("self_attn.o_proj.weight", "self_attn.o_proj.weight", true);
        check("proj", "self_attn.o_proj.weight", false);
        check("o_proj", "co_proj.weight", false);
        check("self_attn.weight", "self_attn.o_proj.weight", false);
        check("o_proj.self_attn", "self_attn.o_proj.weight", false);
        check("self_attn.o_proj.weight", "o_proj.weight", false);
    }

    #[test]
    fn a_star_is_exactly_one_component() {
        check("*", "input_layernorm.weight", true);
        check("mlp.*.weight", "mlp.up_proj.weight", true);
        check("mlp.*.weight", "mlp.weight", false);
        check("mlp.*.weight", "mlp.experts.0.weight", false);
        check("mlp.experts.*.w2", "block.mlp.experts.7.w2.weight", true);
        check("*.*.*.*", "mlp.up_proj.weight", false);
    }

    #[test]
    fn numbers_are_written_short_and_exact() {
        for (number, expected) in
            [(0.5, "0.5"), (-2.0, "-2"), (1e-9, "1e-9"), (1e300, "1e300"), (100.0, "100")]
        {
            assert_eq!(Number(number).to_string(), expected);
        }
    }
}
