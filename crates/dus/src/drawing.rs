//! A layer plan as a picture of text, for terminals and model cards.

use std::fmt::Write as _;

use crate::plan::{LayerPlan, LayerRef, Segment};

/// The widest picture of a base's layers, in characters.
const WIDTH: usize = 64;

/// Rows beyond this many are left out in the middle.
const MAX_ROWS: usize = 40;

/// Draws `plan`: a row a segment, each layer a block under its place in the base.
///
/// `█` is a layer's first occurrence, `▒` a copy, `◆` a layer made of several.
#[must_use]
pub fn draw(plan: &LayerPlan) -> String {
    let segments = plan.segments();
    let depth = plan.models().iter().map(|model| model.num_layers).max().unwrap_or(1);
    let layers_per_block = depth.div_ceil(WIDTH);
    let mut text = String::new();
    if layers_per_block > 1 {
        let _ = writeln!(text, "one block is {layers_per_block} layers");
    }
    let labels: Vec<String> =
        segments.iter().map(|s| format!("{}..{}", s.start, s.start + s.len)).collect();
    let label_width = labels.iter().map(String::len).max().unwrap_or(0);
    let width = depth.div_ceil(layers_per_block);
    for (i, (segment, label)) in segments.iter().zip(&labels).enumerate() {
        if segments.len() > MAX_ROWS && i == MAX_ROWS / 2 {
            let _ = writeln!(text, "{:>label_width$}  ({} rows)", "⋮", segments.len() - MAX_ROWS);
        }
        if segments.len() > MAX_ROWS && (MAX_ROWS / 2..segments.len() - MAX_ROWS / 2).contains(&i) {
            continue;
        }
        let blocks = blocks(plan, segment, layers_per_block, width);
        let _ = write!(text, "{label:>label_width$}  {blocks}  {}", origin(plan, segment));
        for &op in &segment.ops {
            let _ = write!(text, "  {}", plan.ops()[op]);
        }
        if let Some(meeting) = i.checked_sub(1).and_then(|i| meeting(&segments[i], segment)) {
            let _ = write!(text, "  seam: {meeting}");
        }
        text.push('\n');
    }
    text
}

/// The blocks of a segment, under the places of its layers in the base.
fn blocks(plan: &LayerPlan, segment: &Segment, layers_per_block: usize, width: usize) -> String {
    let mut blocks = vec![' '; width];
    let layers = &plan.layers()[segment.start..segment.start + segment.len];
    for layer in layers {
        let place = layer.sources()[0].layer / layers_per_block;
        let block = match layer.source() {
            None => '◆',
            Some(_) if layer.is_new => '▒',
            Some(_) => '█',
        };
        // Where a block stands for several layers, a first occurrence shows.
        if blocks[place] != '█' {
            blocks[place] = block;
        }
    }
    blocks.into_iter().collect()
}

fn origin(plan: &LayerPlan, segment: &Segment) -> String {
    let first = &plan.layers()[segment.start];
    let model = |source: LayerRef| match &plan.models()[source.model].name {
        Some(name) => format!("{name}:"),
        None => String::new(),
    };
    if let Some(source) = segment.source {
        format!("{}{}..{}", model(source), source.layer, source.layer + segment.len)
    } else {
        let sources: Vec<String> =
            first.sources().iter().map(|&s| format!("{}{}", model(s), s.layer)).collect();
        format!("made of {}", sources.join(", "))
    }
}

/// What meets at the border of two segments, if that is not a layer and its successor.
fn meeting(before: &Segment, after: &Segment) -> Option<String> {
    let (last, first) = (before.source?, after.source?);
    let last = LayerRef { layer: last.layer + before.len - 1, ..last };
    let follows = last.model == first.model && last.layer + 1 == first.layer;
    (!follows).then(|| format!("{} meets {}", last.layer, first.layer))
}
