//! What the commands print: text for people, one JSON object for machines.

use std::fmt::Write as _;
use std::time::Duration;

use checkpoint::hub::Pushed;
use dus::blueprint::{Blueprint, LayoutKind};
use dus::build::{Built, Room};
use dus::clean::Removed;
use dus::drawing;
use dus::inspect::Description;
use dus::movement::Moved;
use dus::output::Output;
use dus::plan::{LayerPlan, LayerRef};
use dus::recipe::Form;
use dus::size::{Bytes, Count};
use dus::verify::Verdict;
use serde_json::{Value, json};

/// What `plan` says: the layers drawn, then what the files will be.
pub(crate) fn plan(blueprint: &Blueprint, room: &Room) -> String {
    let plan = &blueprint.plan;
    let splice = &blueprint.splice;
    let models: Vec<String> = blueprint
        .models
        .iter()
        .zip(&blueprint.locations)
        .map(|(model, location)| {
            let path = model.checkpoint.path().display();
            let dir = match &location.hub {
                Some(hub) if !blueprint.has_weights() => format!("{} on the hub", hub.repo),
                _ => path.to_string(),
            };
            let layers = model.anatomy.num_layers();
            match &model.name {
                Some(name) => format!("{name} = {dir}, {layers} layers"),
                None => format!("{dir}, {layers} layers"),
            }
        })
        .collect();
    let mut text = format!("{}\n\n{}\n", models.join("\n"), drawing::draw(plan));
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    let num_new = plan.layers().iter().filter(|layer| layer.is_new).count();
    row("plan", &plan.to_string());
    row("layers", &format!("{} ({num_new} new)", plan.num_layers()));
    row("jumps", &format!("J = {}, the largest is {}", plan.discrepancy(), plan.largest_jump()));
    row("parameters", &Count(splice.num_parameters()).to_string());
    let accounts = splice.accounts;
    row(
        "tensors",
        &format!(
            "{}, {} bytes; of the sources', {} copied once, {} repeated, {} dropped",
            splice.tensors.len(),
            Count(splice.bytes()),
            accounts.copied,
            accounts.repeated,
            accounts.dropped
        ),
    );
    let shards = &blueprint.layout.shards;
    let sizes: Vec<String> = shards.iter().map(|shard| Bytes(shard.bytes()).to_string()).collect();
    match blueprint.form() {
        Form::Folder => row("shards", &format!("{}: {}", shards.len(), sizes.join(", "))),
        Form::Gguf => row("file", &format!("GGUF, {}", sizes.join(", "))),
    }
    row("disk", &format!("{} needed, {} free", Bytes(room.needed), Bytes(room.free)));
    let kind = blueprint.layout_kind;
    let can =
        if room.can_share { "can be shared" } else { "could be shared, but not on this disk" };
    let mut sharing = format!("{} {can}", Bytes(blueprint.shareable_bytes(kind)));
    if blueprint.form() == Form::Folder {
        let other = Bytes(blueprint.shareable_bytes(kind.other()));
        let _ = write!(sharing, " (--shard-layout {}: {other})", kind.other().name());
    }
    row("sharing", &sharing);
    let unused = ranges(&plan.unused(), plan);
    if !unused.is_empty() {
        row("unused", &format!("source layers {unused}"));
    }
    row(
        "function",
        match splice.function_preserving {
            Some(true) => "preserved: the added layers are the identity",
            Some(false) => "changed until trained",
            None => "not known for this family",
        },
    );
    text
}

/// `plan` as JSON.
pub(crate) fn plan_json(
    blueprint: &Blueprint,
    room: &Room,
    notes: &[String],
    obstacles: &[String],
) -> Value {
    let plan = &blueprint.plan;
    let unused: Vec<Value> = plan
        .unused()
        .iter()
        .map(|unused| json!({ "model": plan.models()[unused.model].name, "layer": unused.layer }))
        .collect();
    let shards: Vec<Value> = blueprint
        .layout
        .shards
        .iter()
        .map(|shard| {
            let tensor_bytes = shard.bytes() - shard.header.len() as u64;
            json!({ "name": shard.name, "bytes": shard.bytes(), "tensor_bytes": tensor_bytes })
        })
        .collect();
    json!({
        "form": blueprint.form().name(),
        "plan": plan.to_string(),
        "num_hidden_layers": plan.num_layers(),
        "layers": dus::manifest::layers(blueprint),
        "discrepancy": plan.discrepancy(),
        "largest_jump": plan.largest_jump(),
        "seams": plan.seams(),
        "unused_layers": unused,
        "function_preserving": blueprint.splice.function_preserving,
        "num_parameters": blueprint.splice.num_parameters(),
        "num_tensors": blueprint.splice.tensors.len(),
        "bytes": blueprint.splice.bytes(),
        "shards": shards,
        "shareable_bytes": {
            "size": blueprint.shareable_bytes(LayoutKind::Size),
            "source": blueprint.shareable_bytes(LayoutKind::Source),
        },
        "can_share": room.can_share,
        "needed_bytes": room.needed,
        "free_bytes": room.free,
        "notes": notes,
        "obstacles": obstacles,
    })
}

/// What `plan` says of a build that was begun at `out` and is not complete.
pub(crate) fn unfinished(out: &Output) -> Option<String> {
    let unfinished = out.unfinished()?;
    Some(format!(
        "{} of a build are done in {}; if it was interrupted, `dus build --resume` goes on with it, \
         and without --resume it begins anew",
        Bytes(unfinished.bytes),
        unfinished.partial.display()
    ))
}

/// What `clean` says.
pub(crate) fn clean(removed: &[Removed], out: &str) -> String {
    if removed.is_empty() {
        return format!("{out}: nothing was left beside it\n");
    }
    let line = |r: &Removed| format!("removed {} ({})\n", r.path.display(), Bytes(r.bytes));
    removed.iter().map(line).collect()
}

/// `clean` as JSON.
pub(crate) fn clean_json(removed: &[Removed], out: &str) -> Value {
    let removed: Vec<Value> = (removed.iter())
        .map(|r| json!({ "path": r.path.display().to_string(), "bytes": r.bytes }))
        .collect();
    json!({ "output": out, "removed": removed })
}

/// What `build` says when it is done.
pub(crate) fn build(blueprint: &Blueprint, built: &Built, out: &str, time: Duration) -> String {
    let bytes = blueprint.splice.bytes();
    let rate = bytes as f64 / 1e9 / time.as_secs_f64();
    let mut text = format!(
        "{out}: {} layers, {} parameters, {} in {:.2} s ({rate:.2} GB/s)\n",
        blueprint.plan.num_layers(),
        Count(blueprint.splice.num_parameters()),
        Bytes(bytes),
        time.as_secs_f64()
    );
    let Moved { shared, kernel, streamed, computed } = built.moved;
    let ways = [
        (shared, "shared"),
        (kernel, "copied in the kernel"),
        (streamed, "read and written"),
        (computed, "computed"),
        (built.resumed, "kept from the interrupted build"),
    ];
    let ways: Vec<String> = ways
        .iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, way)| format!("{} {way}", Bytes(*bytes)))
        .collect();
    text.push_str(&ways.join(", "));
    if blueprint.form() == Form::Folder && blueprint.has_weights() {
        let other = blueprint.layout_kind.other();
        let _ = write!(
            text,
            "; where blocks can be shared, --shard-layout {} shares {}",
            other.name(),
            Bytes(blueprint.shareable_bytes(other))
        );
    }
    text.push('\n');
    if built.cast.lossy > 0 || built.cast.overflowed > 0 {
        let _ = writeln!(
            text,
            "{} values lost bits in the cast ({} of them became zero), {} became infinite",
            Count(built.cast.lossy),
            Count(built.cast.flushed),
            Count(built.cast.overflowed)
        );
    }
    text
}

/// `build` as JSON.
pub(crate) fn build_json(blueprint: &Blueprint, built: &Built, out: &str, time: Duration) -> Value {
    let Moved { shared, kernel, streamed, computed } = built.moved;
    let other = blueprint.layout_kind.other();
    let notes = [blueprint.notes(), built.notes.clone()].concat();
    json!({
        "output": out,
        "form": blueprint.form().name(),
        "num_hidden_layers": blueprint.plan.num_layers(),
        "num_parameters": blueprint.splice.num_parameters(),
        "num_tensors": blueprint.splice.tensors.len(),
        "num_shards": blueprint.layout.shards.len(),
        "bytes": blueprint.splice.bytes(),
        "seconds": time.as_secs_f64(),
        "shared_bytes": shared,
        "kernel_bytes": kernel,
        "streamed_bytes": streamed,
        "computed_bytes": computed,
        "resumed_bytes": built.resumed,
        "shard_layout": blueprint.layout_kind.name(),
        "other_layout_shareable_bytes": blueprint.shareable_bytes(other),
        "cast": {
            "lossy": built.cast.lossy,
            "flushed": built.cast.flushed,
            "overflowed": built.cast.overflowed,
        },
        "notes": notes,
    })
}

/// What `push` says.
pub(crate) fn pushed(pushed: &Pushed) -> String {
    let (sent, kept) = (Bytes(pushed.sent), Bytes(pushed.kept));
    let mut text = match pushed.commit {
        Some(_) => format!("{}: {sent} sent", pushed.url),
        None => format!("{}: nothing has changed", pushed.url),
    };
    if pushed.kept > 0 {
        let _ = write!(text, ", {kept} were there already");
    }
    for path in &pushed.ignored {
        let _ = write!(text, "\n{path} is kept out by the repository's .gitignore");
    }
    text.push('\n');
    text
}

/// What `verify` says.
pub(crate) fn verdict(verdict: &Verdict, out: &str) -> String {
    if verdict.differences.is_empty() {
        return format!(
            "{out}: all {} tensors ({}) are as they were built\n",
            verdict.num_tensors,
            Bytes(verdict.bytes)
        );
    }
    let many = if verdict.differences.len() == 1 { "" } else { "s" };
    let mut text = format!("{out}: {} difference{many}\n", verdict.differences.len());
    for difference in &verdict.differences {
        let _ = writeln!(text, "  {difference}");
    }
    text
}

/// What `inspect` says.
pub(crate) fn description(
    description: &Description,
    dir: &str,
    duplicates: Option<&[Vec<usize>]>,
) -> String {
    let mut text = format!("{dir}\n\n");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<24} {value}");
    };
    if !description.architectures.is_empty() {
        row("architectures", &description.architectures.join(", "));
    }
    row("model_type", description.model_type.as_deref().unwrap_or("not given"));
    for (key, value) in &description.config {
        row(key, &value.to_string());
    }
    row("parameters", &Count(description.num_parameters).to_string());
    let types = description.bytes_by_dtype.iter();
    let types: Vec<String> = types.map(|(dtype, b)| format!("{} {dtype}", Bytes(*b))).collect();
    row("tensors", &format!("{}: {}", description.num_tensors, types.join(", ")));
    if let Some(layers) = &description.layers {
        row("layers", &layers.num_hidden_layers.to_string());
        for (range, bytes) in runs(&layers.bytes_by_layer) {
            row(&format!("  {}.{range}", layers.prefix), &format!("{} each", Bytes(bytes)));
        }
        row("outside the layers", &Bytes(layers.other_bytes).to_string());
    }
    for (name, bytes) in &description.files {
        row(name, &Bytes(*bytes).to_string());
    }
    if let Some(groups) = duplicates {
        let groups: Vec<String> = groups
            .iter()
            .map(|g| g.iter().map(usize::to_string).collect::<Vec<_>>().join(" = "))
            .collect();
        row("equal layers", if groups.is_empty() { "none" } else { &groups[0] });
        for group in groups.iter().skip(1) {
            row("", group);
        }
    }
    text
}

/// Layers as ranges, such as `1..8, e:3..4`.
fn ranges(layers: &[LayerRef], plan: &LayerPlan) -> String {
    let mut runs: Vec<(LayerRef, usize)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((first, end)) if first.model == layer.model && *end == layer.layer => *end += 1,
            _ => runs.push((layer, layer.layer + 1)),
        }
    }
    let text = |&(LayerRef { model, layer }, end): &(LayerRef, usize)| {
        let name = plan.models()[model].name.as_ref();
        let name = name.map_or(String::new(), |name| format!("{name}:"));
        if end == layer + 1 { format!("{name}{layer}") } else { format!("{name}{layer}..{end}") }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Neighbouring layers of one size, as ranges.
fn runs(bytes_by_layer: &[u64]) -> Vec<(String, u64)> {
    let mut runs: Vec<(std::ops::Range<usize>, u64)> = Vec::new();
    for (layer, &bytes) in bytes_by_layer.iter().enumerate() {
        match runs.last_mut() {
            Some((layers, last)) if *last == bytes => layers.end = layer + 1,
            _ => runs.push((layer..layer + 1, bytes)),
        }
    }
    runs.into_iter()
        .map(|(layers, bytes)| (format!("{}..{}", layers.start, layers.end), bytes))
        .collect()
}
