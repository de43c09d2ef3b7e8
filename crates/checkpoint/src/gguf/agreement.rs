//! What metadata and tensors say both must be the same.

use super::architecture::{Architecture, Translated};
use super::error::GgufError;
use super::header::HeaderTensor;
use super::keys::Keys;
use crate::error::Result;
use crate::family::{self, Dim, Family};
use crate::json::Object;

const EMBEDDINGS: &str = "token_embd.weight";

/// Checks that the layers' tensors are those of as many layers as the metadata count, each whole.
pub(super) fn check_layers(keys: &Keys, num_layers: u64, tensors: &[HeaderTensor]) -> Result<()> {
    let architecture = keys.architecture;
    let count = architecture.key("block_count");
    let mut found = std::collections::HashSet::new();
    for HeaderTensor { name, .. } in tensors {
        match architecture.hf_name(name) {
            None => {
                let architecture = architecture.name.to_owned();
                let unknown = GgufError::UnknownTensor { tensor: name.clone(), architecture };
                return Err(keys.failed(unknown));
            }
            Some(Translated::Tensor { layer: Some(layer), .. }) if layer as u64 >= num_layers => {
                let what = format!("`{name}` is there, but `{count}` is {num_layers}");
                return Err(keys.contradiction(what));
            }
            Some(_) => {
                found.insert(name.as_str());
            }
        }
    }
    for name in architecture.required_globals() {
        if !found.contains(name.as_str()) {
            return Err(keys.contradiction(format!("`{name}` is missing")));
        }
    }
    for layer in 0..num_layers {
        for name in architecture.required_in_layer(layer) {
            if !found.contains(name.as_str()) {
                let what = format!("`{count}` is {num_layers}, but `{name}` is missing");
                return Err(keys.contradiction(what));
            }
        }
    }
    Ok(())
}

/// The number of rows of the embeddings, for which there must be as many tokens.
pub(super) fn vocab_size(keys: &Keys, tensors: &[HeaderTensor]) -> Result<u64> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let embeddings = tensors.iter().find(|tensor| tensor.name == EMBEDDINGS);
    let rows = match embeddings.map(|tensor| tensor.shape.as_slice()) {
        Some(&[rows, _]) => rows as u64,
        _ => return Err(keys.contradiction(format!("`{EMBEDDINGS}` is no matrix"))),
    };
    let tokens = keys.metadata.array(TOKENS)?.map(|tokens| tokens.len() as u64);
    let stated = keys.u64("vocab_size")?;
    for (key, count, of) in
        [(TOKENS.to_owned(), tokens, "has"), (keys.key("vocab_size"), stated, "is")]
    {
        if let Some(count) = count.filter(|&count| count != rows) {
            return Err(keys.contradiction(format!(
                "`{key}` {of} {count}{}, but `{EMBEDDINGS}` has {rows} rows",
                if of == "has" { " tokens" } else { "" }
            )));
        }
    }
    Ok(rows)
}

/// Checks the shapes of all tensors against `config`, which was read from the metadata.
pub(super) fn check_shapes(keys: &Keys, config: &Object, tensors: &[HeaderTensor]) -> Result<()> {
    let Some(family) = Family::of(config) else { return Ok(()) };
    for tensor in tensors {
        let translated = keys.architecture.hf_name(&tensor.name);
        let Some(Translated::Tensor { name, layer, .. }) = translated else { continue };
        let own = match layer {
            Some(layer) => {
                name.strip_prefix(&format!("{}.{layer}.", family.layers)).unwrap_or(&name)
            }
            None => &name,
        };
        let tables: [&[family::Tensor]; 3] = [family.before, family.layer, family.after];
        let Some(known) = tables.into_iter().flatten().find(|known| known.name == own) else {
            continue;
        };
        let sizes = known.shape.iter().map(|dim| dim.size(config, family));
        let Some(expected) = sizes.collect::<Option<Vec<u64>>>() else { continue };
        if !tensor.shape.iter().map(|&size| size as u64).eq(expected.iter().copied()) {
            let said: Vec<String> =
                known.shape.iter().map(|&dim| said_by(dim, keys.architecture)).collect();
            return Err(keys.contradiction(format!(
                "`{}` is {:?}, but by {} it is {expected:?}",
                tensor.name,
                tensor.shape,
                said.join(" and ")
            )));
        }
    }
    Ok(())
}

/// What the metadata call a dimension.
fn said_by(dim: Dim, architecture: &Architecture) -> String {
    let [head, heads, key_value_heads, ff] = [
        "attention.key_length",
        "attention.head_count",
        "attention.head_count_kv",
        "feed_forward_length",
    ]
    .map(|suffix| format!("`{}`", architecture.key(suffix)));
    match dim {
        Dim::Hidden => format!("`{}`", architecture.key("embedding_length")),
        Dim::Intermediate => ff,
        Dim::Vocab => format!("the rows of `{EMBEDDINGS}`"),
        Dim::Head => head,
        Dim::Queries => format!("{heads} × {head}"),
        Dim::KeysValues => format!("{key_value_heads} × {head}"),
        Dim::QueriesKeysValues => format!("({heads} + 2 × {key_value_heads}) × {head}"),
        Dim::GateUp => format!("2 × {ff}"),
    }
}
