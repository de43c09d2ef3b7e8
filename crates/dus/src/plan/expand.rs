//! From a plan's syntax to its layers, for models of known depth.

use super::error::{Fault, MAX_LAYERS, MAX_PARTS, PlanErrorKind, Span, Spanned};
use super::layers::{LayerRef, ModelDepth, Origin};
use super::ops::TensorOp;
use super::syntax::{Depth, LayerExpr, Overlap, Reference, SegmentExpr, Term};

type Result<T> = std::result::Result<T, Fault>;

/// A layer and the operations written for it. What is new is not decided yet.
pub(super) type Draft = (Origin, Vec<usize>);

pub(super) struct Expander<'a> {
    models: &'a [ModelDepth],
    ops: Vec<TensorOp>,
    op_spans: Vec<Span>,
}

impl<'a> Expander<'a> {
    /// `whole` is the span of the whole plan.
    pub(super) fn new(models: &'a [ModelDepth], whole: Span) -> Result<Expander<'a>> {
        if models.is_empty() {
            return Err(PlanErrorKind::NoModel.at(whole));
        }
        let expander = Expander { models, ops: Vec::new(), op_spans: Vec::new() };
        for model in 0..models.len() {
            let (model, num_layers) = expander.name_and_depth(model);
            if num_layers > MAX_LAYERS {
                return Err(PlanErrorKind::ModelTooDeep { model, num_layers }.at(whole));
            }
        }
        Ok(expander)
    }

    /// The operations seen so far, and the spans of their patterns.
    pub(super) fn into_ops(self) -> (Vec<TensorOp>, Vec<Span>) {
        (self.ops, self.op_spans)
    }

    pub(super) fn plan(&mut self, segments: &[Spanned<SegmentExpr>]) -> Result<Vec<Draft>> {
        let mut layers = Vec::new();
        let mut parts = 0;
        for segment in segments {
            let more = self.segment(segment)?;
            parts += num_parts(&more);
            check_layers(layers.len() + more.len(), segment.span)?;
            check_parts(parts, segment.span)?;
            layers.extend(more);
        }
        Ok(layers)
    }

    fn segment(&mut self, segment: &Spanned<SegmentExpr>) -> Result<Vec<Draft>> {
        let SegmentExpr { term, ops, times } = &segment.node;
        let mut layers = self.term(term, segment.span)?;
        self.apply(ops, &mut layers)?;
        repeated(layers, times)
    }

    fn term(&mut self, term: &Term, span: Span) -> Result<Vec<Draft>> {
        Ok(match term {
            Term::Layers(reference) => as_they_are(self.reference(reference)?),
            Term::Group(segments) => self.plan(segments)?,
            Term::Dus(overlap) => self.dus(overlap)?,
            Term::Repeat { from, to } => self.repeat(from, to)?,
            Term::Stack(times) => {
                let base = self.base(0, self.models[0].num_layers, span)?;
                repeated(as_they_are(base), times)?
            }
            Term::Insert { range, every, ops } => {
                let range = as_they_are(self.reference(range)?);
                let mut copies = range.clone();
                self.apply(ops, &mut copies)?;
                let mut layers = Vec::new();
                for (group, copies) in range.chunks(*every).zip(copies.chunks(*every)) {
                    layers.extend_from_slice(group);
                    // A short group at the end has no k-th layer.
                    layers.extend(copies.get(*every - 1).cloned());
                }
                layers
            }
            Term::Interleave { parts, group } => {
                let first = self.segment(&parts[0])?;
                let second = self.segment(&parts[1])?;
                same_length("interleave", first.len(), second.len(), parts[1].span)?;
                let groups = first.chunks(*group).zip(second.chunks(*group));
                groups.flat_map(|(first, second)| [first, second].concat()).collect()
            }
            Term::Mix(terms) => self.mix(terms)?,
            Term::Slerp { from, to, t } => {
                let starts = self.reference(from)?;
                let ends = self.reference(to)?;
                same_length("slerp", starts.len(), ends.len(), to.span)?;
                let made = |(from, to)| (Origin::Slerp { from, to, t: *t }, Vec::new());
                starts.into_iter().zip(ends).map(made).collect()
            }
        })
    }

    /// SOLAR's plan: two copies, the last m layers left out of one and the first m of the other
    /// (Kim et al. 2023, section 2).
    fn dus(&mut self, overlap: &Spanned<Overlap>) -> Result<Vec<Draft>> {
        let (model, n) = self.name_and_depth(0);
        let drop = match &overlap.node {
            Overlap::Drop(drop) => self.layer(drop, 0)?,
            Overlap::Target(target) if target % 2 == 0 && (n..=2 * n).contains(target) => {
                n - target / 2
            }
            &Overlap::Target(target) => {
                let kind = PlanErrorKind::TargetOutOfReach { target, model, num_layers: n };
                return Err(kind.at(overlap.span));
            }
        };
        if drop > n / 2 {
            let kind = PlanErrorKind::DropsTooMany { drop, model, num_layers: n };
            return Err(kind.at(overlap.span));
        }
        let lower = self.base(0, n - drop, overlap.span)?;
        let upper = self.base(drop, n, overlap.span)?;
        Ok(as_they_are([lower, upper].concat()))
    }

    fn repeat(&mut self, from: &LayerExpr, to: &LayerExpr) -> Result<Vec<Draft>> {
        let (model, n) = self.name_and_depth(0);
        let span = from.span.to(to.span);
        let (from, to) = (self.layer(from, 0)?, self.layer(to, 0)?);
        if from > to || to > n || from == n || to == 0 {
            let kind = PlanErrorKind::RepeatOutOfBounds { from, to, model, num_layers: n };
            return Err(kind.at(span));
        }
        Ok(as_they_are([self.base(0, to, span)?, self.base(from, n, span)?].concat()))
    }

    fn mix(&mut self, terms: &[(f64, Spanned<Reference>)]) -> Result<Vec<Draft>> {
        let mut mixes: Vec<Vec<(f64, LayerRef)>> = Vec::new();
        for (place, (weight, reference)) in terms.iter().enumerate() {
            let layers = self.reference(reference)?;
            if place == 0 {
                mixes = vec![Vec::new(); layers.len()];
            }
            same_length("mix", mixes.len(), layers.len(), reference.span)?;
            check_parts(mixes.len() * (place + 1), reference.span)?;
            for (mix, layer) in mixes.iter_mut().zip(layers) {
                mix.push((*weight, layer));
            }
        }
        Ok(mixes.into_iter().map(|mix| (Origin::Mix(mix), Vec::new())).collect())
    }

    /// Writes `ops` for each of `layers`, after those of the braces inside.
    fn apply(&mut self, ops: &[Spanned<TensorOp>], layers: &mut [Draft]) -> Result<()> {
        for op in ops {
            check_parts(num_parts(layers) + layers.len(), op.span)?;
            for (_, written) in layers.iter_mut() {
                written.push(self.ops.len());
            }
            self.ops.push(op.node.clone());
            self.op_spans.push(op.span);
        }
        Ok(())
    }

    fn reference(&self, reference: &Spanned<Reference>) -> Result<Vec<LayerRef>> {
        let Reference { model, start, end, step } = &reference.node;
        let model = model.as_ref().map_or(Ok(0), |name| self.model(name))?;
        let start = self.layer(start, model)?;
        match end {
            Some(end) => {
                let range = self.range(model, start, self.layer(end, model)?, reference.span)?;
                Ok(range.into_iter().step_by(*step).collect())
            }
            None if start < self.models[model].num_layers => {
                Ok(vec![LayerRef { model, layer: start }])
            }
            None => {
                let (model, num_layers) = self.name_and_depth(model);
                let kind = PlanErrorKind::LayerOutOfBounds { layer: start, model, num_layers };
                Err(kind.at(reference.span))
            }
        }
    }

    /// A range of the first model.
    fn base(&self, start: usize, end: usize, span: Span) -> Result<Vec<LayerRef>> {
        self.range(0, start, end, span)
    }

    fn range(&self, model: usize, start: usize, end: usize, span: Span) -> Result<Vec<LayerRef>> {
        let (name, num_layers) = self.name_and_depth(model);
        let range = start..end;
        if end > num_layers {
            return Err(PlanErrorKind::RangeOutOfBounds { range, model: name, num_layers }.at(span));
        }
        if start > end {
            return Err(PlanErrorKind::ReversedRange { range }.at(span));
        }
        if start == end {
            return Err(PlanErrorKind::EmptyRange { range }.at(span));
        }
        Ok(range.map(|layer| LayerRef { model, layer }).collect())
    }

    fn layer(&self, layer: &LayerExpr, model: usize) -> Result<usize> {
        let (model, num_layers) = self.name_and_depth(model);
        let kind = match layer.node {
            Depth::Number(layer) => return Ok(layer),
            Depth::N => return Ok(num_layers),
            Depth::NMinus(minus) if minus <= num_layers => return Ok(num_layers - minus),
            Depth::NMinus(minus) => PlanErrorKind::BelowZero { minus, model, num_layers },
            Depth::NOver(divisor) if num_layers.is_multiple_of(divisor) => {
                return Ok(num_layers / divisor);
            }
            Depth::NOver(divisor) => PlanErrorKind::Remainder { divisor, model, num_layers },
        };
        Err(kind.at(layer.span))
    }

    fn model(&self, name: &Spanned<String>) -> Result<usize> {
        let same = |model: &ModelDepth| model.name.as_ref() == Some(&name.node);
        self.models.iter().position(same).ok_or_else(|| {
            let known = self.models.iter().filter_map(|model| model.name.clone()).collect();
            PlanErrorKind::UnknownModel { name: name.node.clone(), known }.at(name.span)
        })
    }

    /// What errors call a model, and its n.
    fn name_and_depth(&self, model: usize) -> (String, usize) {
        let ModelDepth { name, num_layers } = &self.models[model];
        let name = name.as_ref().map_or_else(|| "the base".to_owned(), |name| format!("`{name}`"));
        (name, *num_layers)
    }
}

fn as_they_are(layers: Vec<LayerRef>) -> Vec<Draft> {
    layers.into_iter().map(|layer| (Origin::Layer(layer), Vec::new())).collect()
}

fn same_length(function: &'static str, first: usize, second: usize, span: Span) -> Result<()> {
    if first == second {
        Ok(())
    } else {
        Err(PlanErrorKind::LengthsDiffer { function, first, second }.at(span))
    }
}

/// `layers`, `times` over. What would be too large is refused before it is allocated.
fn repeated(layers: Vec<Draft>, times: &Spanned<usize>) -> Result<Vec<Draft>> {
    let num_layers = layers.len().saturating_mul(times.node);
    check_layers(num_layers, times.span)?;
    check_parts(num_parts(&layers).saturating_mul(times.node), times.span)?;
    Ok(if times.node == 1 {
        layers
    } else {
        layers.iter().cycle().take(num_layers).cloned().collect()
    })
}

fn check_layers(num_layers: usize, span: Span) -> Result<()> {
    if num_layers > MAX_LAYERS { Err(PlanErrorKind::TooManyLayers.at(span)) } else { Ok(()) }
}

fn check_parts(parts: usize, span: Span) -> Result<()> {
    if parts > MAX_PARTS { Err(PlanErrorKind::TooManyParts.at(span)) } else { Ok(()) }
}

fn num_parts(layers: &[Draft]) -> usize {
    let parts = |(origin, ops): &Draft| match origin {
        Origin::Mix(terms) => terms.len() + ops.len(),
        Origin::Layer(_) | Origin::Slerp { .. } => ops.len(),
    };
    layers.iter().map(parts).sum()
}

#[cfg(test)]
mod tests {
    use crate::plan::{ModelDepth, Plan, PlannedLayer};

    fn resolve(text: &str, num_layers: usize) -> Vec<PlannedLayer> {
        let plan = Plan::parse(text).unwrap();
        plan.resolve(&[ModelDepth { name: None, num_layers }]).unwrap().layers().to_vec()
    }

    /// A plan on a base of so many layers, and the source layers that it comes to.
    #[track_caller]
    fn check(text: &str, num_layers: usize, expected: &[usize]) {
        let layers = resolve(text, num_layers);
        let sources: Vec<usize> =
            layers.iter().map(|layer| layer.source().expect("a plain layer").layer).collect();
        assert_eq!(sources, expected);
    }

    #[test]
    fn ranges_are_half_open_and_may_step() {
        check("0..3", 4, &[0, 1, 2]);
        check("3 + n-1 + n/2", 4, &[3, 3, 2]);
        check("n/2..n", 6, &[3, 4, 5]);
        check("0..5 step 2", 6, &[0, 2, 4]);
        check("0..4 step 9", 6, &[0]);
    }

    #[test]
    fn dus_overlaps_two_copies() {
        check("dus(1)", 4, &[0, 1, 2, 1, 2, 3]);
        check("dus(0)", 2, &[0, 1, 0, 1]);
        check("dus(n/2)", 4, &[0, 1, 2, 3]);
        check("dus(2)", 5, &[0, 1, 2, 2, 3, 4]);
        check("dus(s=6)", 4, &[0, 1, 2, 1, 2, 3]);
        check("dus(s=4)", 4, &[0, 1, 2, 3]);
        check("dus(s=6)", 5, &[0, 1, 2, 2, 3, 4]);
    }

    #[test]
    fn repeat_stack_and_factors() {
        check("repeat(1, 3)", 4, &[0, 1, 2, 1, 2, 3]);
        check("repeat(2, 2)", 4, &[0, 1, 2, 3]);
        check("repeat(0, n)", 2, &[0, 1, 0, 1]);
        check("stack(3)", 2, &[0, 1, 0, 1, 0, 1]);
        check("(0 + 1..3)*2", 4, &[0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn insert_copies_the_last_of_each_full_group() {
        check("insert(0..n, every=2, copy)", 4, &[0, 1, 1, 2, 3, 3]);
        check("insert(1..4, every=2, copy)", 8, &[1, 2, 2, 3]);
        check("insert(0..2, every=1, copy)", 8, &[0, 0, 1, 1]);
        check("insert(0..2, every=9, copy)", 8, &[0, 1]);
        check("insert(0..6 step 2, every=3, copy)", 8, &[0, 2, 4, 4]);
    }

    #[test]
    fn interleave_takes_groups_in_turn() {
        check("interleave(0..3, 5..8)", 8, &[0, 5, 1, 6, 2, 7]);
        check("interleave(0..3, 5..8, 2)", 8, &[0, 1, 5, 6, 2, 7]);
        check("interleave(0*2, (6 + 7), 9)", 8, &[0, 0, 6, 7]);
    }

    /// The operations that apply to each layer.
    #[track_caller]
    fn check_ops(text: &str, expected: &[&[usize]]) {
        let layers = resolve(text, 4);
        let ops: Vec<&[usize]> = layers.iter().map(|layer| layer.ops.as_slice()).collect();
        assert_eq!(ops, expected);
    }

    #[test]
    fn operations_gather_from_the_inside_out() {
        check_ops("0{a: zero} + (1{b: zero, c: zero} + 2){d: zero}", &[&[0], &[1, 2, 3], &[3]]);
        check_ops("interleave(0{a: zero}, 1){b: zero}", &[&[0, 1], &[1]]);
        check_ops("mix(1*0){a: zero}*2", &[&[0], &[0]]);
    }

    #[test]
    fn inserted_copies_have_operations_of_their_own() {
        check_ops(
            "insert(0..2, every=1, copy{new a: zero}){b: zero}",
            &[&[1], &[0, 1], &[1], &[0, 1]],
        );
    }

    #[test]
    fn new_is_decided_on_the_finished_plan() {
        check_ops("0..2{new a: zero}*2", &[&[], &[], &[0], &[0]]);
        check_ops("0..2{new a: zero} + 0..2", &[&[], &[], &[], &[]]);
        check_ops("1 + 0..2{new a: zero}", &[&[], &[], &[0]]);
        check_ops("slerp(0, 1, 0){new a: zero}", &[&[0]]);

        // The example in docs/plans.md.
        let layers = resolve("dus(8){new o_proj: scale 0.5}*2", 32);
        let scaled = |layers: &[PlannedLayer]| layers.iter().filter(|l| l.ops == [0]).count();
        assert_eq!((scaled(&layers[..48]), scaled(&layers[48..])), (16, 48));
    }

    #[test]
    fn copies_are_counted_and_made_layers_are_not_copies() {
        let layers = resolve("(0..2 + mix(1*0))*2 + 0", 2);
        let facts: Vec<_> = layers.iter().map(|layer| (layer.copy, layer.is_new)).collect();
        let made = (0, true);
        assert_eq!(facts, [(0, false), (0, false), made, (1, true), (1, true), made, (2, true)]);
    }
}
