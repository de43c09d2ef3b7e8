//! The model card, `README.md`: what the model is made of, and how to make it again.

use std::fmt::Write as _;
use std::path::Path;

use crate::blueprint::{Blueprint, LayoutKind};
use crate::drawing;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::plan::{LayerPlan, ModelDepth};
use crate::size::Count;

/// Writes the card of a build of `blueprint`; `base_card` is the base's own.
///
/// The base's licence and language are kept; the rest of its card describes the base.
#[must_use]
pub fn write(blueprint: &Blueprint, manifest: &Manifest, title: &str, base_card: &str) -> String {
    let mut card = String::from("---\n");
    card.push_str(&base_models(manifest));
    for entry in kept_front_matter(base_card) {
        card.push_str(&entry);
    }
    card.push_str("library_name: transformers\ntags:\n- depth-up-scaling\n---\n\n");
    let num_parameters = blueprint.splice.num_parameters();
    card.push_str(&description(manifest, &blueprint.plan, num_parameters, title));
    let layout = match blueprint.layout_kind {
        LayoutKind::Size => "",
        LayoutKind::Source => " --shard-layout source",
    };
    let _ = writeln!(
        card,
        "`dus build recipe.toml{layout} -o OUT` builds it from these lines, saved in this folder; \
         `dus verify`\non this folder compares every tensor with its source."
    );
    card
}

/// Writes the card of the GGUF file that a build left at `out`.
pub fn of_file(
    manifest: &Manifest,
    out: &Path,
    num_parameters: u64,
    title: &str,
    license: Option<&str>,
) -> Result<String> {
    let depths: Vec<ModelDepth> = manifest
        .models
        .iter()
        .map(|m| ModelDepth { name: m.name.clone(), num_layers: m.num_hidden_layers })
        .collect();
    let recipe = manifest.draft(out.parent().unwrap_or(out)).finish()?;
    let plan = recipe.layers.resolve(&depths)?;
    let mut card = String::from("---\n");
    card.push_str(&base_models(manifest));
    if let Some(license) = license {
        let _ = writeln!(card, "license: {}", serde_json::Value::from(license));
    }
    card.push_str("tags:\n- depth-up-scaling\n- gguf\n---\n\n");
    card.push_str(&description(manifest, &plan, num_parameters, title));
    let _ = writeln!(
        card,
        "`dus build recipe.toml -o {title}.gguf` builds it from these lines; `dus verify {title}.gguf` \
         compares\nevery tensor with its source."
    );
    Ok(card)
}

/// The front matter's entry of the bases that are on the hub; empty if none is.
fn base_models(manifest: &Manifest) -> String {
    let mut bases = manifest.models.iter().filter_map(|model| model.hub.as_ref()).peekable();
    let mut text = String::new();
    if bases.peek().is_some() {
        text.push_str("base_model:\n");
    }
    for base in bases {
        let _ = writeln!(text, "- {base}");
    }
    text
}

/// What the model is, and the recipe.
fn description(manifest: &Manifest, plan: &LayerPlan, num_parameters: u64, title: &str) -> String {
    let mut card = String::new();
    let _ = writeln!(
        card,
        "# {title}\n\nA depth up-scaled model of {} layers and {} parameters, not trained since.\n",
        plan.num_layers(),
        Count(num_parameters)
    );
    let _ = writeln!(card, "## Layers\n\n```text\nplan: {plan}\n");
    card.push_str(&drawing::draw(plan));
    card.push_str("```\n\nEach row is a run of new layers, drawn over the base's: █ a layer, ▒ a copy of it.\n");
    if manifest.function_preserving == Some(true) {
        card.push_str(
            "The plan preserves the base's function: the added layers are the identity.\n",
        );
    }
    card.push_str("\n## How to make it again\n\n```toml\n");
    card.push_str(&recipe_text(manifest));
    card.push_str("```\n\n");
    card
}

/// The recipe as TOML.
fn recipe_text(manifest: &Manifest) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = String::new();
    let spec =
        |model: &crate::manifest::SourceModel| match (&model.hub, &model.revision, &model.path) {
            (Some(hub), Some(revision), _) => format!("{hub}@{revision}"),
            (.., Some(path)) => path.clone(),
            _ => String::new(),
        };
    let named: Vec<_> = manifest.models.iter().filter(|model| model.name.is_some()).collect();
    if let [base] = &*manifest.models
        && base.name.is_none()
    {
        let _ = writeln!(text, "base = {}", quoted(&spec(base)));
    }
    let recipe = &manifest.recipe;
    let _ = writeln!(text, "layers = {}", quoted(&recipe.layers));
    let keys = [
        ("architecture", &recipe.architecture),
        ("dtype", &recipe.dtype),
        ("to", &recipe.to),
        ("embeddings", &recipe.embeddings),
        ("norm", &recipe.norm),
        ("lm_head", &recipe.lm_head),
    ];
    for (key, value) in keys {
        if let Some(value) = value {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
    }
    if let Some(bytes) = recipe.max_shard_size {
        let _ = writeln!(text, "max_shard_size = {bytes}");
    }
    if !named.is_empty() {
        text.push_str("\n[models]\n");
        for model in named {
            let name = model.name.as_deref().unwrap_or_default();
            let _ = writeln!(text, "{name} = {}", quoted(&spec(model)));
        }
    }
    text
}

/// The licence and language entries of a card's front matter, as they stand there.
fn kept_front_matter(card: &str) -> Vec<String> {
    const KEPT: [&str; 4] = ["license", "license_name", "license_link", "language"];
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let mut entries = Vec::new();
    let mut keeping = false;
    for line in lines.take_while(|line| line.trim_end() != "---") {
        let is_key = !line.starts_with([' ', '\t', '-', '#']) && line.contains(':');
        if is_key {
            keeping = line.split(':').next().is_some_and(|key| KEPT.contains(&key.trim()));
            if keeping {
                entries.push(String::new());
            }
        }
        if keeping && let Some(entry) = entries.last_mut() {
            entry.push_str(line.trim_end());
            entry.push('\n');
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_and_language_are_kept_as_they_stand() {
        let card = "---\ntags:\n- pretrained\nlicense: apache-2.0\nlanguage:\n- en\n- ko\n\
                    pipeline_tag: text-generation\n---\n# Base\nlicense: not this\n";
        assert_eq!(kept_front_matter(card), ["license: apache-2.0\n", "language:\n- en\n- ko\n"]);
        assert!(kept_front_matter("# Base\n").is_empty());
    }
}
