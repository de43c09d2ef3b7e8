//! A plan as it is written, before it meets a model, and how it is printed.
//!
//! Each node prints as text that parses to the same node. What the grammar takes for granted (a
//! step, a group or a factor of 1, a seed of 0) is not printed.

use std::fmt;

use super::error::Spanned;
use super::ops::{Braces, Number, TensorOp};

/// A term, what is done to its layers, and how often it stands there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SegmentExpr {
    pub(super) term: Term,
    /// Each with the span of its pattern.
    pub(super) ops: Vec<Spanned<TensorOp>>,
    pub(super) times: Spanned<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Term {
    Layers(Spanned<Reference>),
    Group(Vec<Spanned<SegmentExpr>>),
    Dus(Spanned<Overlap>),
    Repeat { from: LayerExpr, to: LayerExpr },
    Stack(Spanned<usize>),
    Insert { range: Spanned<Reference>, every: usize, ops: Vec<Spanned<TensorOp>> },
    Interleave { parts: Box<[Spanned<SegmentExpr>; 2]>, group: usize },
    Mix(Vec<(f64, Spanned<Reference>)>),
    Slerp { from: Spanned<Reference>, to: Spanned<Reference>, t: f64 },
}

/// What `dus` is told: the m to drop on both sides of the seam, or the s to reach.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Overlap {
    Drop(LayerExpr),
    Target(usize),
}

/// One layer or, with an end, a half-open range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reference {
    pub(super) model: Option<Spanned<String>>,
    pub(super) start: LayerExpr,
    pub(super) end: Option<LayerExpr>,
    pub(super) step: usize,
}

pub(super) type LayerExpr = Spanned<Depth>;

/// A layer's number, absolute or by the model's layer count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Depth {
    Number(usize),
    N,
    NMinus(usize),
    NOver(usize),
}

/// Segments joined by `+`.
pub(super) struct Joined<'a>(pub(super) &'a [Spanned<SegmentExpr>]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.0.iter().enumerate() {
            write!(f, "{}{}", if place == 0 { "" } else { " + " }, segment.node)?;
        }
        Ok(())
    }
}

impl fmt::Display for SegmentExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.term, Braces(&self.ops))?;
        match self.times.node {
            1 => Ok(()),
            times => write!(f, "*{times}"),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Layers(reference) => write!(f, "{}", reference.node),
            Term::Group(segments) => write!(f, "({})", Joined(segments)),
            Term::Dus(Spanned { node: Overlap::Drop(drop), .. }) => write!(f, "dus({})", drop.node),
            Term::Dus(Spanned { node: Overlap::Target(s), .. }) => write!(f, "dus(s={s})"),
            Term::Repeat { from, to } => write!(f, "repeat({}, {})", from.node, to.node),
            Term::Stack(times) => write!(f, "stack({})", times.node),
            Term::Insert { range, every, ops } => {
                write!(f, "insert({}, every={every}, copy{})", range.node, Braces(ops))
            }
            Term::Interleave { parts, group } => {
                write!(f, "interleave({}, {}", parts[0].node, parts[1].node)?;
                match group {
                    1 => f.write_str(")"),
                    group => write!(f, ", {group})"),
                }
            }
            Term::Mix(terms) => {
                for (place, (weight, reference)) in terms.iter().enumerate() {
                    f.write_str(if place == 0 { "mix(" } else { ", " })?;
                    write!(f, "{}*{}", Number(*weight), reference.node)?;
                }
                f.write_str(")")
            }
            Term::Slerp { from, to, t } => {
                write!(f, "slerp({}, {}, {})", from.node, to.node, Number(*t))
            }
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(model) = &self.model {
            write!(f, "{}:", model.node)?;
        }
        write!(f, "{}", self.start.node)?;
        if let Some(end) = &self.end {
            write!(f, "..{}", end.node)?;
        }
        match self.step {
            1 => Ok(()),
            step => write!(f, " step {step}"),
        }
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Depth::Number(layer) => write!(f, "{layer}"),
            Depth::N => f.write_str("n"),
            Depth::NMinus(minus) => write!(f, "n-{minus}"),
            Depth::NOver(divisor) => write!(f, "n/{divisor}"),
        }
    }
}
