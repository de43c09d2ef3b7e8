//! What a plan's new tensors should be, layer by layer: the definition, with nothing clever in it.

use crate::tensor::Tensors;

/// The tensors of a model whose layer j is layer `layers[j]` of `source`.
///
/// Tensors outside `prefix` (`model.layers`, `h`) stay as they are.
#[must_use]
pub fn expected(source: &Tensors, layers: &[usize], prefix: &str) -> Tensors {
    let globals = source.iter().filter(|(name, _)| layer_of(name, prefix).is_none());
    let mut tensors: Tensors =
        globals.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    for (j, &layer) in layers.iter().enumerate() {
        let before = tensors.len();
        for (name, tensor) in source {
            if let Some((number, rest)) = layer_of(name, prefix)
                && number == layer
            {
                tensors.insert(format!("{prefix}.{j}.{rest}"), tensor.clone());
            }
        }
        assert!(tensors.len() > before, "the source has no layer {layer}");
    }
    tensors
}

/// The layer number in a tensor's name, and what follows it.
fn layer_of<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Panics with the first few differences, unless `found` is `expected` byte for byte.
#[track_caller]
pub fn assert_same(found: &Tensors, expected: &Tensors) {
    let names = expected.keys().chain(found.keys().filter(|name| !expected.contains_key(*name)));
    let differences: Vec<String> = names
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| {
            let origin = found.get(name).and_then(|tensor| {
                expected.iter().find(|(_, other)| *other == tensor).map(|(name, _)| name)
            });
            let [found, expected] = [found, expected].map(|tensors| tensors.get(name));
            format!("{name}: found {found:?}, which is {origin:?}; expected {expected:?}")
        })
        .collect();
    let num_differences = differences.len();
    let some: Vec<String> = differences.into_iter().take(5).collect();
    assert!(num_differences == 0, "{num_differences} tensors differ:\n{}", some.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, TinyModel};

    #[test]
    fn layers_are_copied_and_the_rest_stays() {
        for family in [Family::Mistral, Family::Gpt2] {
            let model = TinyModel::of(family);
            let (source, prefix) = (model.tensors_by_name(), family.prefix());
            assert_same(&expected(&source, &[0, 1, 2, 3], prefix), &source);

            let deep = expected(&source, &[0, 1, 2, 1, 2, 3], prefix);
            let of_a_layer =
                source.keys().filter(|name| layer_of(name, prefix).is_some()).count() / 4;
            assert_eq!(deep.len(), source.len() + 2 * of_a_layer);
            let at = |layer: usize, tensors: &Tensors| {
                let begin = format!("{prefix}.{layer}.");
                let of_layer = tensors.iter().filter(|(name, _)| name.starts_with(&begin));
                of_layer.map(|(_, tensor)| tensor.clone()).collect::<Vec<_>>()
            };
            assert_eq!(at(3, &deep), at(1, &source));
            assert_eq!(at(5, &deep), at(3, &source));
        }
    }

    #[test]
    #[should_panic(expected = "model.layers.0.input_layernorm.weight: found")]
    fn a_layer_from_the_wrong_place_shows() {
        let source = TinyModel::default().tensors_by_name();
        let found = expected(&source, &[1, 1, 2, 3], "model.layers");
        assert_same(&found, &source);
    }
}
