//! Settings by which the depth, or a layer's number, is part of the arithmetic or of a shape.

use checkpoint::json::Object;

use super::depth::{Depth, malformed, shortened};
use super::error::SettingError;
use super::rules::{PACKED_VOCABULARY, REFUSALS, SCALE_BY_ROOT_OF_DEPTH, is_of};

/// Refuses what cannot be made right for another depth, by the values that are in force.
pub(super) fn refuse_depth_dependence(config: &Object) -> Result<(), SettingError> {
    for refusal in REFUSALS.iter().filter(|it| is_of(config, it.families)) {
        if config.get(refusal.key).is_some_and(|value| !(refusal.is_ordinary)(&value)) {
            return Err(depends(config, refusal.key, refusal.why));
        }
    }
    let packs = config.get(PACKED_VOCABULARY).is_some_and(|size| size.as_u64() > Some(0));
    if packs && !config.contains("hidden_size_per_layer_input") {
        let why = "the embeddings of all layers are packed into one tensor";
        return Err(depends(config, PACKED_VOCABULARY, why));
    }
    Ok(())
}

fn depends(config: &Object, key: &str, why: &'static str) -> SettingError {
    let value = shortened(config.text(key).unwrap_or_default());
    SettingError::DependsOnDepth { key: key.to_owned(), value, why }
}

/// Rescales what loaders divide by the root of the layer count, so that each layer adds what it did.
///
/// `MiniCPM` multiplies every branch by `scale_depth / sqrt(num_hidden_layers)`.
pub(super) fn rescale(
    config: &mut Object,
    depth: &Depth,
    num_base_layers: &[usize],
    notes: &mut Vec<String>,
) -> Result<(), SettingError> {
    const KEY: &str = SCALE_BY_ROOT_OF_DEPTH;
    let branch_scale = |model: usize| -> Result<Option<f64>, SettingError> {
        let scale = scale_of(depth.configs[model])?;
        Ok(scale.map(|scale| scale / (num_base_layers[model] as f64).sqrt()))
    };
    let expected = branch_scale(depth.donor)?;
    for model in depth.models() {
        let is_alike = match (branch_scale(model)?, expected) {
            (None, None) => true,
            (Some(found), Some(expected)) => (found / expected - 1.0).abs() < 1e-12,
            _ => false,
        };
        if !is_alike {
            let show = |config: &Object| config.text(KEY).unwrap_or("absent").to_owned();
            return Err(SettingError::Disagree {
                key: KEY.to_owned(),
                model: depth.names[model].to_owned(),
                found: show(depth.configs[model]),
                donor: depth.names[depth.donor].to_owned(),
                expected: show(depth.base()),
            });
        }
    }
    let Some(expected) = expected else { return Ok(()) };
    if depth.layers.len() == num_base_layers[depth.donor] {
        return Ok(());
    }
    let rescaled = times_root(expected, depth.layers.len());
    let old = config.text(KEY).unwrap_or_default().to_owned();
    config.set(KEY, &rescaled.into());
    notes.push(format!(
        "`{KEY}` set from {old} to {rescaled}: loaders divide it by the root of the layer count"
    ));
    Ok(())
}

/// The scale in force; `None` where there is none, or where the depth has no part in it.
///
/// Parsed by Rust: `serde_json`'s floats may be one unit off in the last place.
fn scale_of(config: &Object) -> Result<Option<f64>, SettingError> {
    const KEY: &str = SCALE_BY_ROOT_OF_DEPTH;
    match config.text(KEY) {
        None if is_of(config, &["minicpm", "minicpm3"]) => Err(SettingError::DependsOnDepth {
            key: KEY.to_owned(),
            value: "absent".to_owned(),
            why: "loaders divide their default by the root of the layer count",
        }),
        None | Some("null") => Ok(None),
        Some(text) => match text.parse::<f64>() {
            Ok(0.0) => Ok(None),
            Ok(scale) if scale.is_finite() => Ok(Some(scale)),
            _ => Err(malformed(config, KEY, "a number")),
        },
    }
}

/// The number that, divided by the root of `num_layers`, gives `scale`, to the last bit if there is one.
#[expect(clippy::float_cmp, reason = "the very bits are what is looked for")]
fn times_root(scale: f64, num_layers: usize) -> f64 {
    let root = (num_layers as f64).sqrt();
    let product = scale * root;
    let neighbours = [product, product.next_up(), product.next_down()];
    neighbours.into_iter().find(|&it| it / root == scale).unwrap_or(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rescaled_branch_is_scaled_as_before() {
        for (scale, n, s) in [(1.4_f64, 40_usize, 64_usize), (1.4, 62, 93), (1.4, 32, 48)] {
            let before = scale / (n as f64).sqrt();
            let after = times_root(before, s) / (s as f64).sqrt();
            assert!((after / before - 1.0).abs() <= f64::EPSILON, "{scale} {n} {s}");
        }
    }
}
