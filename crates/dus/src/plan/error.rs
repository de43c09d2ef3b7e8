//! What can be wrong with a plan, and where in its text.

use std::fmt;
use std::ops::Range;

/// The functions that a plan may call.
pub(super) const FUNCTIONS: [&str; 7] =
    ["dus", "repeat", "stack", "insert", "interleave", "mix", "slerp"];
/// More layers than any model has; a plan beyond it is a slip of the pen, or an attack.
pub(super) const MAX_LAYERS: usize = 65_536;
/// Bounds the memory of a plan whose every layer has many operations or is made of many others.
pub(super) const MAX_PARTS: usize = 1 << 22;
/// Bounds the stack that parsing needs.
pub(super) const MAX_NESTING: usize = 64;

/// Where in the plan's text something stands, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    pub(super) fn to(self, last: Span) -> Span {
        Span { start: self.start, end: last.end }
    }
}

/// A part of a plan and where it was written. Where does not matter to equality.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spanned<T> {
    pub(super) node: T,
    pub(super) span: Span,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

/// An error of which the text is not known yet.
pub(super) type Fault = Spanned<PlanErrorKind>;

impl PlanErrorKind {
    pub(super) fn at(self, span: Span) -> Fault {
        Spanned { node: self, span }
    }
}

/// A plan that cannot be read, or that does not fit the models it is resolved for.
///
/// Displayed it is three lines: the message, the line of the plan that it is about, and carets under
/// the place.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanError {
    kind: PlanErrorKind,
    /// The line's text, one character for each of the plan, none of which moves the cursor.
    line: String,
    /// 1-based; none where the plan is a single line.
    line_number: Option<usize>,
    column: usize,
    width: usize,
}

impl PlanError {
    pub(super) fn new(text: &str, fault: Fault) -> PlanError {
        let Range { start, end } = fault.span.start..fault.span.end;
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        PlanError {
            kind: fault.node,
            line: text[line_start..line_end].trim_end().chars().map(visible).collect(),
            line_number: text
                .trim()
                .contains('\n')
                .then(|| text[..start].matches('\n').count() + 1),
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end.min(line_end)].trim_end().chars().count().max(1),
        }
    }

    /// What is wrong, with its values.
    #[must_use]
    pub fn kind(&self) -> &PlanErrorKind {
        &self.kind
    }

    /// What is wrong, in one line that does not say where.
    #[must_use]
    pub fn message(&self) -> String {
        self.kind.to_string()
    }

    /// Where it begins in its line: 1-based, in characters.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.kind)?;
        if let Some(line_number) = self.line_number {
            write!(f, "line {line_number}, ")?;
        }
        writeln!(f, "column {})", self.column)?;
        writeln!(f, "{}", self.line)?;
        write!(f, "{:indent$}{:^>width$}", "", "", indent = self.column - 1, width = self.width)
    }
}

impl std::error::Error for PlanError {}

/// What can be wrong with a plan.
///
/// `model` is a model's name in backquotes, or `the base`; `num_layers` is its n.
#[expect(missing_docs, reason = "what the fields are is in each variant's message")]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanErrorKind {
    /// The text does not follow the grammar.
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: String, found: String },
    /// A function that does not exist.
    #[error("`{name}` is not a plan function; known: {}", FUNCTIONS.join(", "))]
    UnknownFunction { name: String },
    /// A model that the recipe does not name.
    #[error("`{name}` is not a model; {}", known_models(known))]
    UnknownModel { name: String, known: Vec<String> },
    /// A model of the name `n`.
    #[error("`n` cannot be a model's name; it stands for the number of layers")]
    ModelNamedN,
    /// `n` where a layer should stand.
    #[error("`n` is the number of layers, not a layer; the last layer is `n-1`")]
    NumberOfLayersAsLayer,
    /// An integer or a number that its type cannot hold.
    #[error("{found} is too large a number")]
    NumberTooLarge { found: String },
    /// A count of zero.
    #[error("expected a count of at least 1, found 0")]
    ZeroCount,
    /// Noise of negative strength.
    #[error("noise {sigma} is negative; its strength must be at least 0")]
    NegativeNoise { sigma: f64 },
    /// Too many parentheses inside each other.
    #[error("parentheses nest too deeply; at most {MAX_NESTING} levels are read")]
    NestedTooDeeply,
    /// A plan for nothing.
    #[error("the plan has no model to take layers from")]
    NoModel,
    /// A model that claims more layers than a plan may have.
    #[error("{model} has {num_layers} layers; at most {MAX_LAYERS} are planned")]
    ModelTooDeep { model: String, num_layers: usize },
    /// A layer that the model does not have.
    #[error("layer {layer} is past the end of {model} (n = {num_layers})")]
    LayerOutOfBounds { layer: usize, model: String, num_layers: usize },
    /// A range that ends after the model does.
    #[error("range {}..{} reaches past the end of {model} (n = {num_layers})", range.start, range.end)]
    RangeOutOfBounds { range: Range<usize>, model: String, num_layers: usize },
    /// `n` minus more than there is.
    #[error("`n-{minus}` is below layer 0 of {model} (n = {num_layers})")]
    BelowZero { minus: usize, model: String, num_layers: usize },
    /// A division of `n` that leaves a remainder.
    #[error("`n/{divisor}` leaves a remainder in {model} (n = {num_layers})")]
    Remainder { divisor: usize, model: String, num_layers: usize },
    /// A range without layers.
    #[error("range {}..{} is empty", range.start, range.end)]
    EmptyRange { range: Range<usize> },
    /// A range that ends before it starts.
    #[error("range {}..{} runs backwards", range.start, range.end)]
    ReversedRange { range: Range<usize> },
    /// `dus(m)` that would lose layers of the base.
    #[error(
        "dus({drop}) would lose layers of {model} (n = {num_layers}): m is at most {}",
        num_layers / 2
    )]
    DropsTooMany { drop: usize, model: String, num_layers: usize },
    /// `dus(s=…)` that two copies of the base cannot give.
    #[error(
        "dus(s={target}) is out of reach of {model} (n = {num_layers}): s is even, from {} to {}",
        num_layers.next_multiple_of(2),
        2 * num_layers
    )]
    TargetOutOfReach { target: usize, model: String, num_layers: usize },
    /// `repeat(i, j)` whose parts are empty, or would leave layers out.
    #[error(
        "repeat({from}, {to}) does not fit {model} (n = {num_layers}): \
         it needs 0 <= i <= j <= n, i < n and j > 0"
    )]
    RepeatOutOfBounds { from: usize, to: usize, model: String, num_layers: usize },
    /// Parts that are taken layer by layer and do not match.
    #[error("{function} needs parts of one length, found {first} and {second} layers")]
    LengthsDiffer { function: &'static str, first: usize, second: usize },
    /// More layers than a plan may have.
    #[error("the plan grows past {MAX_LAYERS} layers")]
    TooManyLayers,
    /// More operations on layers, and layers in mixes, than a plan may have.
    #[error("the plan grows past {MAX_PARTS} operations and mixed layers")]
    TooManyParts,
    /// An operation that finds no tensor.
    #[error("`{pattern}` matches no tensor of the layers that it is for")]
    MatchesNothing { pattern: String },
    /// An operation on new layers in a plan that has none at its place.
    #[error("`new {pattern}` has no layer to work on; none of those it is for is new")]
    NoNewLayer { pattern: String },
}

fn known_models(known: &[String]) -> String {
    if known.is_empty() {
        "the plan has one base, without a name".to_owned()
    } else {
        format!("known: {}", known.join(", "))
    }
}

#[cfg(test)]
mod tests;
