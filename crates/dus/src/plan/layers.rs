//! Which source layer each new layer is.
//!
//! A [`LayerPlan`] is the whole idea of depth up-scaling in one vector. It knows nothing of tensors,
//! files or configuration; those follow from it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::error::{PlanError, PlanErrorKind, Span};
use super::ops::{Number, TensorOp};

/// A model that a plan may take layers from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDepth {
    /// What the plan calls it; none for a single base.
    pub name: Option<String>,
    /// Its n.
    pub num_layers: usize,
}

/// One layer of one of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerRef {
    /// The model, by its place in [`LayerPlan::models`].
    pub model: usize,
    /// The layer, counted from 0.
    pub layer: usize,
}

/// Where a new layer comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// It is that layer.
    Layer(LayerRef),
    /// It is made: a weighted sum, in the order of the plan. Weights are finite and not normalised.
    Mix(Vec<(f64, LayerRef)>),
    /// It is made: a spherical interpolation.
    Slerp {
        /// The layer at `t` = 0.
        from: LayerRef,
        /// The layer at `t` = 1.
        to: LayerRef,
        /// How far, finite.
        t: f64,
    },
}

/// A layer of the model to be built.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedLayer {
    /// Where it comes from.
    pub origin: Origin,
    /// How many earlier layers are the same source layer; 0 for a made layer.
    pub copy: usize,
    /// Whether it is a second or later copy, or made.
    pub is_new: bool,
    /// The operations that apply to it, as ascending places in [`LayerPlan::ops`].
    pub ops: Vec<usize>,
}

impl PlannedLayer {
    /// Every layer that it is made of, in the order of the plan.
    #[must_use]
    pub fn sources(&self) -> Vec<LayerRef> {
        match &self.origin {
            Origin::Layer(source) => vec![*source],
            Origin::Mix(terms) => terms.iter().map(|(_, source)| *source).collect(),
            Origin::Slerp { from, to, .. } => vec![*from, *to],
        }
    }

    /// The layer that it is, unless it is made.
    #[must_use]
    pub fn source(&self) -> Option<LayerRef> {
        match self.origin {
            Origin::Layer(source) => Some(source),
            Origin::Mix(_) | Origin::Slerp { .. } => None,
        }
    }
}

/// A stretch of new layers that are consecutive layers of one model under the same operations, or
/// a single made layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The first new layer.
    pub start: usize,
    /// How many there are.
    pub len: usize,
    /// The source of the first; none for a made layer.
    pub source: Option<LayerRef>,
    /// The operations that apply to each, as places in [`LayerPlan::ops`].
    pub ops: Vec<usize>,
}

/// The layers of the model to be built, from bottom to top.
///
/// It is never empty and never points past its sources. Displayed it is a plan of plain layers,
/// in which what is new is decided: `dus(8)` on 32 layers is `0..24 + 8..32`.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    layers: Vec<PlannedLayer>,
    models: Vec<ModelDepth>,
    ops: Vec<TensorOp>,
    op_spans: Vec<Span>,
    text: String,
}

impl LayerPlan {
    /// Decides which of `layers`, each an origin with all operations that are written for it, are
    /// new, and drops the operations that are for new layers only from those that are not.
    pub(super) fn new(
        layers: Vec<(Origin, Vec<usize>)>,
        models: &[ModelDepth],
        (ops, op_spans): (Vec<TensorOp>, Vec<Span>),
        text: &str,
    ) -> LayerPlan {
        let mut occurrences: HashMap<LayerRef, usize> = HashMap::new();
        let finish = |(origin, mut written_ops): (Origin, Vec<usize>)| {
            let (copy, is_new) = match origin {
                Origin::Layer(source) => {
                    let seen = occurrences.entry(source).or_default();
                    *seen += 1;
                    (*seen - 1, *seen > 1)
                }
                Origin::Mix(_) | Origin::Slerp { .. } => (0, true),
            };
            written_ops.retain(|&op| is_new || !ops[op].only_new);
            PlannedLayer { origin, copy, is_new, ops: written_ops }
        };
        let layers = layers.into_iter().map(finish).collect();
        LayerPlan { layers, models: models.to_vec(), ops, op_spans, text: text.to_owned() }
    }

    /// The new layers, from bottom to top.
    #[must_use]
    pub fn layers(&self) -> &[PlannedLayer] {
        &self.layers
    }

    /// How many layers the new model has.
    #[must_use]
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// The models that the plan was resolved for.
    #[must_use]
    pub fn models(&self) -> &[ModelDepth] {
        &self.models
    }

    /// All operations of the plan, in the order of its text, with those that apply to no layer.
    #[must_use]
    pub fn ops(&self) -> &[TensorOp] {
        &self.ops
    }

    /// The error that the operation at this place in [`LayerPlan::ops`] works on nothing.
    ///
    /// Whether it does, only those can say who know the names of the tensors.
    ///
    /// # Panics
    ///
    /// If there is no such operation.
    #[must_use]
    pub fn op_matches_nothing(&self, op: usize) -> PlanError {
        let pattern = self.ops[op].pattern.to_string();
        let kind = if self.layers.iter().any(|layer| layer.ops.contains(&op)) {
            PlanErrorKind::MatchesNothing { pattern }
        } else {
            PlanErrorKind::NoNewLayer { pattern }
        };
        PlanError::new(&self.text, kind.at(self.op_spans[op]))
    }

    /// J = Σ |φ(j) − φ(j−1) − 1|, with φ(j) the source layer's number, whatever its model. Pairs
    /// with a made layer are left out.
    #[must_use]
    pub fn discrepancy(&self) -> usize {
        self.jumps().sum()
    }

    /// The largest term of [`LayerPlan::discrepancy`].
    #[must_use]
    pub fn largest_jump(&self) -> usize {
        self.jumps().max().unwrap_or(0)
    }

    fn jumps(&self) -> impl Iterator<Item = usize> {
        self.layers.windows(2).filter_map(|pair| {
            let (below, above) = (pair[0].source()?, pair[1].source()?);
            Some(above.layer.abs_diff(below.layer + 1))
        })
    }

    /// The new layers, by number, that do not continue the one below: another layer than the next
    /// one of the same model, or either of the two is made.
    #[must_use]
    pub fn seams(&self) -> Vec<usize> {
        (1..self.layers.len()).filter(|&j| !self.continues(j)).collect()
    }

    fn continues(&self, j: usize) -> bool {
        match (self.layers[j - 1].source(), self.layers[j].source()) {
            (Some(below), Some(above)) => {
                below.model == above.model && below.layer + 1 == above.layer
            }
            _ => false,
        }
    }

    /// The source layers that no new layer is or is made of, model by model.
    #[must_use]
    pub fn unused(&self) -> Vec<LayerRef> {
        let used: HashSet<LayerRef> = self.layers.iter().flat_map(PlannedLayer::sources).collect();
        let all = self.models.iter().enumerate().flat_map(|(model, depth)| {
            (0..depth.num_layers).map(move |layer| LayerRef { model, layer })
        });
        all.filter(|layer| !used.contains(layer)).collect()
    }

    /// The plan as stretches of layers, as it is drawn.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        for (j, layer) in self.layers.iter().enumerate() {
            match segments.last_mut() {
                Some(segment) if self.continues(j) && segment.ops == layer.ops => segment.len += 1,
                _ => segments.push(Segment {
                    start: j,
                    len: 1,
                    source: layer.source(),
                    ops: layer.ops.clone(),
                }),
            }
        }
        segments
    }

    fn write_layer(&self, f: &mut fmt::Formatter<'_>, layer: LayerRef) -> fmt::Result {
        if let Some(name) = &self.models[layer.model].name {
            write!(f, "{name}:")?;
        }
        write!(f, "{}", layer.layer)
    }

    fn write_segment(&self, f: &mut fmt::Formatter<'_>, segment: &Segment) -> fmt::Result {
        match &self.layers[segment.start].origin {
            Origin::Layer(source) => {
                self.write_layer(f, *source)?;
                if segment.len > 1 {
                    write!(f, "..{}", source.layer + segment.len)?;
                }
            }
            Origin::Mix(terms) => {
                for (place, (weight, source)) in terms.iter().enumerate() {
                    f.write_str(if place == 0 { "mix(" } else { ", " })?;
                    write!(f, "{}*", Number(*weight))?;
                    self.write_layer(f, *source)?;
                }
                f.write_str(")")?;
            }
            Origin::Slerp { from, to, t } => {
                f.write_str("slerp(")?;
                self.write_layer(f, *from)?;
                f.write_str(", ")?;
                self.write_layer(f, *to)?;
                write!(f, ", {})", Number(*t))?;
            }
        }
        for (place, &op) in segment.ops.iter().enumerate() {
            let TensorOp { pattern, action, .. } = &self.ops[op];
            write!(f, "{}{pattern}: {action}", if place == 0 { "{" } else { ", " })?;
        }
        f.write_str(if segment.ops.is_empty() { "" } else { "}" })
    }
}

impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in self.segments() {
            f.write_str(if segment.start == 0 { "" } else { " + " })?;
            self.write_segment(f, &segment)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn resolve(text: &str) -> LayerPlan {
        let model = |name: &str, num_layers| ModelDepth { name: Some(name.to_owned()), num_layers };
        Plan::parse(text).unwrap().resolve(&[model("x", 8), model("y", 6)]).unwrap()
    }

    #[track_caller]
    fn check_facts(text: &str, discrepancy: usize, largest_jump: usize, seams: &[usize]) {
        let plan = resolve(text);
        assert_eq!(plan.discrepancy(), discrepancy, "discrepancy");
        assert_eq!(plan.largest_jump(), largest_jump, "largest jump");
        assert_eq!(plan.seams(), seams, "seams");
    }

    #[test]
    fn jumps_are_counted_between_plain_layers() {
        check_facts("0..8", 0, 0, &[]);
        check_facts("3", 0, 0, &[]);
        check_facts("0..6 + 2..8", 4, 4, &[6]);
        check_facts("0..4 + 6..8 + 0", 2 + 8, 8, &[4, 6]);
        check_facts("2*3", 2, 1, &[1, 2]);
    }

    #[test]
    fn another_model_is_a_seam_without_a_jump() {
        check_facts("x:0..4 + y:4..6", 0, 0, &[4]);
        check_facts("x:0..4 + y:1..6", 3, 3, &[4]);
    }

    #[test]
    fn a_made_layer_is_two_seams_and_no_jump() {
        check_facts("0..4 + mix(0.5*3, 0.5*4) + 7", 0, 0, &[4, 5]);
        check_facts("slerp(0, 1, 0.5)*2 + 0..2", 0, 0, &[1, 2]);
    }

    #[track_caller]
    fn check_unused(text: &str, expected: &[(usize, usize)]) {
        let unused = resolve(text).unused();
        let unused: Vec<_> = unused.iter().map(|unused| (unused.model, unused.layer)).collect();
        assert_eq!(unused, expected);
    }

    #[test]
    fn a_layer_in_a_mix_is_used() {
        check_unused("0..8 + y:0..6", &[]);
        check_unused("1..7 + y:1..6", &[(0, 0), (0, 7), (1, 0)]);
        check_unused("0..5 + mix(0*5, 1*y:0..1) + slerp(6, y:2, 0) + y:3..6", &[(0, 7), (1, 1)]);
    }

    #[track_caller]
    fn check_display(text: &str, expected: &str) {
        let plan = resolve(text);
        assert_eq!(plan.to_string(), expected);
        let again = resolve(expected);
        assert_eq!(again.to_string(), expected);
        let origins = |plan: &LayerPlan| -> Vec<Origin> {
            plan.layers().iter().map(|layer| layer.origin.clone()).collect()
        };
        assert_eq!(origins(&again), origins(&plan));
    }

    #[test]
    fn it_prints_as_runs_of_layers() {
        check_display("dus(2)", "x:0..6 + x:2..8");
        check_display("0..2 + 2..4 + y:4..6", "x:0..4 + y:4..6");
        check_display("2*2 + 0..8 step 3", "x:2 + x:2 + x:0 + x:3 + x:6");
        check_display(
            "mix(0.5*0..2, -1e-9*y:3..5)",
            "mix(0.5*x:0, -1e-9*y:3) + mix(0.5*x:1, -1e-9*y:4)",
        );
        check_display("slerp(1, y:2, 0.25){a: zero}", "slerp(x:1, y:2, 0.25){a: zero}");
    }

    #[test]
    fn it_prints_what_new_came_to() {
        check_display(
            "dus(2){new a.*: scale 0.5, b: noise 0.1 seed=7}",
            "x:0..6{b: noise 0.1 seed=7} + x:2..6{a.*: scale 0.5, b: noise 0.1 seed=7} \
             + x:6..8{b: noise 0.1 seed=7}",
        );
        check_display("0..4{new a: zero}", "x:0..4");
    }

    #[test]
    fn segments_part_at_seams_and_where_operations_change() {
        let segment = |start, len, source: Option<(usize, usize)>, ops: &[usize]| Segment {
            start,
            len,
            source: source.map(|(model, layer)| LayerRef { model, layer }),
            ops: ops.to_vec(),
        };
        assert_eq!(
            resolve("0..2 + 2..4{a: zero} + 4..5 + y:5 + mix(1*0)*2").segments(),
            [
                segment(0, 2, Some((0, 0)), &[]),
                segment(2, 2, Some((0, 2)), &[0]),
                segment(4, 1, Some((0, 4)), &[]),
                segment(5, 1, Some((1, 5)), &[]),
                segment(6, 1, None, &[]),
                segment(7, 1, None, &[]),
            ]
        );
    }
}
