//! Layer numbers inside module names: `model.layers.3.mlp.gate`.
//!
//! Quantisation settings name the modules that they leave out. A name follows its layer to every
//! copy; a name without a number stays; a pattern that picks layers by the digits of their numbers
//! cannot be followed.

use serde_json::Value;

/// What a module name says of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModuleName<'a> {
    /// Nothing, or any layer: it means the same in the deeper model.
    Everywhere,
    /// One layer, whose number stands between the two texts.
    Layer { before: &'a str, layer: usize, after: &'a str },
    /// Some layers, by a pattern over their digits.
    Pattern,
}

/// The modules that hold the decoder's layers, each under its number.
const CONTAINERS: [&str; 6] = ["layers", "h", "blocks", "block", "layer", "decoder_layers"];

/// Parts of names of modules whose numbered children are not layers of the language model.
const OTHER_TOWERS: [&str; 6] = ["vision", "visual", "audio", "speech", "image", "mtp"];

/// Openings of regular expressions: compressed-tensors' and GPTQ's.
const REGEX_PREFIXES: [&str; 4] = ["re:", "regex:", "-:", "+:"];

/// What stands for a number without choosing one.
const ANY_NUMBER: [&str; 9] =
    ["*", ".*", r"\d+", r"\d*", "[0-9]+", "[0-9]*", r"(\d+)", "([0-9]+)", "[^.]+"];

impl<'a> ModuleName<'a> {
    pub(super) fn parse(name: &'a str) -> Self {
        let is_regex = REGEX_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || name.contains(['\\', '^', '$', '|', '(', '+']);
        for (start, container) in containers(name) {
            let before = name[..start].to_ascii_lowercase();
            if OTHER_TOWERS.iter().any(|tower| before.contains(tower)) {
                return Self::Everywhere;
            }
            let separator_start = start + container.len();
            let rest = &name[separator_start..];
            let Some(separator) = SEPARATORS.iter().find(|it| rest.starts_with(**it)) else {
                if starts_a_pattern(rest, is_regex) {
                    return Self::Pattern;
                }
                continue;
            };
            let number_start = separator_start + separator.len();
            let rest = &name[number_start..];
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let after = &rest[digits..];
            if digits > 0 {
                let plain =
                    !is_regex && *separator == "." && (after.is_empty() || after.starts_with('.'));
                return match rest[..digits].parse() {
                    Ok(layer) if plain => {
                        Self::Layer { before: &name[..number_start], layer, after }
                    }
                    _ => Self::Pattern,
                };
            }
            let part = &rest[..part_len(rest)];
            let picks = part.contains(['?', '[', '(', '{', '|', '\\'])
                || (part.contains('*') && part.bytes().any(|byte| byte.is_ascii_digit()));
            let any = ANY_NUMBER.contains(&part);
            return if picks && !any { Self::Pattern } else { Self::Everywhere };
        }
        if has_number_after_wildcard(name) { Self::Pattern } else { Self::Everywhere }
    }
}

const SEPARATORS: [&str; 3] = [r"\.", "[.]", "."];

/// Whether `name` names a layer, or layers by a pattern.
pub(super) fn names_a_layer(name: &str) -> bool {
    ModuleName::parse(name) != ModuleName::Everywhere
}

/// The first text anywhere inside `value`, keys included, that names a layer.
pub(super) fn find_layer_name(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => names_a_layer(text).then(|| text.clone()),
        Value::Array(items) => items.iter().find_map(find_layer_name),
        Value::Object(entries) => entries.iter().find_map(|(key, value)| {
            names_a_layer(key).then(|| key.clone()).or_else(|| find_layer_name(value))
        }),
        _ => None,
    }
}

/// Where `layers` and its like stand as whole words.
fn containers(name: &str) -> impl Iterator<Item = (usize, &'static str)> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = name.as_bytes();
    (0..bytes.len()).filter(move |&i| i == 0 || !is_word(&bytes[i - 1])).filter_map(move |i| {
        let len = bytes[i..].iter().take_while(|byte| is_word(byte)).count();
        let word = &bytes[i..i + len];
        CONTAINERS.iter().find(|it| it.as_bytes() == word).map(|container| (i, *container))
    })
}

/// Whether a container is followed by something other than a separator that may match digits.
fn starts_a_pattern(rest: &str, is_regex: bool) -> bool {
    let wild = rest.starts_with(['*', '?', '[', '(', '{']) || (is_regex && !rest.is_empty());
    wild && rest.bytes().any(|byte| byte.is_ascii_digit())
}

/// The length of the first component of a dotted name; dots inside brackets do not end it.
fn part_len(rest: &str) -> usize {
    if let Some(any) =
        ANY_NUMBER.iter().filter(|any| rest.starts_with(**any)).max_by_key(|any| any.len())
    {
        let next = &rest[any.len()..];
        if next.is_empty() || SEPARATORS.iter().any(|it| next.starts_with(it)) {
            return any.len();
        }
    }
    let mut depth = 0_usize;
    for (i, c) in rest.char_indices() {
        match c {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => depth = depth.saturating_sub(1),
            '.' if depth == 0 => return i - usize::from(rest[..i].ends_with('\\')),
            _ => {}
        }
    }
    rest.len()
}

/// `*.3.mlp`: the wildcard may stand for `layers`.
fn has_number_after_wildcard(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    parts.windows(2).any(|pair| {
        pair[0].ends_with('*') && !pair[1].is_empty() && pair[1].bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &ModuleName) {
        assert_eq!(ModuleName::parse(name), *expected, "{name}");
    }

    #[test]
    fn a_number_is_a_whole_component_after_the_layers() {
        let layer = |before, layer, after| ModuleName::Layer { before, layer, after };
        check("model.layers.3.mlp.gate", &layer("model.layers.", 3, ".mlp.gate"));
        check("model.layers.12", &layer("model.layers.", 12, ""));
        check("model.layers.3.*", &layer("model.layers.", 3, ".*"));
        check("*layers.3.mlp*", &layer("*layers.", 3, ".mlp*"));
        check("transformer.h.0.attn", &layer("transformer.h.", 0, ".attn"));
        check("model.layers.3.mlp.experts.7.w1", &layer("model.layers.", 3, ".mlp.experts.7.w1"));
        check("model.language_model.layers.1.x", &layer("model.language_model.layers.", 1, ".x"));
    }

    #[test]
    fn what_means_any_layer_or_none_stays() {
        for name in [
            "lm_head",
            "Linear",
            "model.embed_tokens",
            "re:.*lm_head",
            "re:.*mlp.gate$",
            r"re:.*layers\.\d+\.mlp",
            r"re:model\.layers\..*\.self_attn\.q_proj$",
            "model.layers.*.mlp.gate",
            "model.layers.*.mlp.experts.0.w1",
            "model.layers",
            "re:.*layers.*mlp.gate$",
            "visual.blocks.3.attn",
            "vision_tower.encoder.layers.3",
            "mtp.layers.0.mlp",
            "gate.3",
            "",
        ] {
            check(name, &ModuleName::Everywhere);
        }
    }

    #[test]
    fn patterns_over_digits_cannot_be_followed() {
        for name in [
            r"re:.*layers\.3\..*",
            r"re:.*layers\.(0|1|2)\.mlp",
            r"re:.*layers\.[0-3]\.mlp",
            "re:model.layers.3.mlp",
            r"-:.*layers[.]3[.].*",
            "model.layers.3*",
            "model.layers.1?.mlp",
            "model.layers.?.mlp",
            "model.layers.[0-3].mlp",
            "model.layers.{0,1}.mlp",
            "model.layers*3.mlp",
            "*.3.mlp.gate",
        ] {
            check(name, &ModuleName::Pattern);
        }
    }
}
