//! The language of layer plans: which layer of the base each new layer is.
//!
//! A [`Plan`] is what was written, such as `0..24 + 8..32` or `dus(8)`; [`Plan::resolve`] makes it a
//! [`LayerPlan`] for models of known depth. Both are values: nothing here reads a file or knows a
//! tensor. The grammar is in docs/plans.md, and for each rule of it there is a function in `parse.rs`.
//!
//! ```
//! use dus::plan::{ModelDepth, Plan};
//!
//! let plan: Plan = "dus(8)".parse()?;
//! let layers = plan.resolve(&[ModelDepth { name: None, num_layers: 32 }])?;
//! assert_eq!(layers.to_string(), "0..24 + 8..32");
//! # Ok::<(), dus::plan::PlanError>(())
//! ```

mod error;
mod ops;

mod layers;
mod syntax;

mod lex;
mod parse;

mod expand;

use std::fmt;
use std::str::FromStr;

use error::{Span, Spanned};
use expand::Expander;
use lex::TokenKind;
use syntax::{Joined, SegmentExpr};

pub use error::{PlanError, PlanErrorKind};
pub use layers::{LayerPlan, LayerRef, ModelDepth, Origin, PlannedLayer, Segment};
pub use ops::{Action, Pattern, TensorOp};

/// A plan as it was written, not yet for any model.
///
/// Displayed it is the same plan in canonical form, which parses to an equal one. Plans are equal
/// that differ only in blanks, in how numbers are written and in what the grammar takes for granted.
#[derive(Debug, Clone)]
pub struct Plan {
    segments: Vec<Spanned<SegmentExpr>>,
    text: String,
}

impl Plan {
    /// Reads a plan.
    pub fn parse(text: &str) -> Result<Plan, PlanError> {
        let segments = parse::parse(text).map_err(|fault| PlanError::new(text, fault))?;
        Ok(Plan { segments, text: text.to_owned() })
    }

    /// The layers of the plan for these models, the first of which is meant where none is named.
    pub fn resolve(&self, models: &[ModelDepth]) -> Result<LayerPlan, PlanError> {
        let locate = |fault| PlanError::new(&self.text, fault);
        let mut expander = Expander::new(models, self.whole()).map_err(locate)?;
        let layers = expander.plan(&self.segments).map_err(locate)?;
        Ok(LayerPlan::new(layers, models, expander.into_ops(), &self.text))
    }

    fn whole(&self) -> Span {
        self.segments[0].span.to(self.segments[self.segments.len() - 1].span)
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Plan, PlanError> {
        Plan::parse(text)
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Plan) -> bool {
        self.segments == other.segments
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Joined(&self.segments))
    }
}

/// Whether a plan can name a model so: letters, digits and `_`, no digit first, and not `n`.
#[must_use]
pub fn is_model_name(name: &str) -> bool {
    let token = lex::token(name, 0);
    token.kind == TokenKind::Word && token.text == name && name != "n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_name_is_a_word_other_than_n() {
        for name in ["x", "_1", "dus", "N", "nn"] {
            assert!(is_model_name(name), "{name}");
            assert!(Plan::parse(&format!("{name}:0..4")).is_ok(), "{name}");
        }
        for name in ["", "n", "1x", "a-b", "a.b", "é", "a b", " a"] {
            assert!(!is_model_name(name), "{name}");
        }
    }
}
