//! Logits that another program gave, from a JSON file.
//!
//! `prompts` is a list of objects with the tokens (`token_ids`, or `ids`) and `last_logits_top10`, the best
//! next tokens as pairs `[id, logit]` or objects with `id` and `logit`.

use std::path::Path;

use checkpoint::folder;
use serde_json::Value;

use crate::compare::Known;
use crate::error::{Error, Result};

/// Reads the logits in the file at `path`.
pub fn read(path: &Path) -> Result<Vec<Known>> {
    let object = folder::read_object(path)?;
    let wrong = |key: String| Error::Key {
        config: path.to_owned(),
        key,
        expected: "prompts with `token_ids` and `last_logits_top10`",
        found: "something else".to_owned(),
    };
    let prompts = object.get("prompts");
    let prompts = prompts.as_ref().and_then(Value::as_array).filter(|prompts| !prompts.is_empty());
    let prompts = prompts.ok_or_else(|| wrong("prompts".to_owned()))?;
    let known = |(i, prompt)| known(prompt).ok_or_else(|| wrong(format!("prompts[{i}]")));
    prompts.iter().enumerate().map(known).collect()
}

fn known(prompt: &Value) -> Option<Known> {
    let ids = prompt.get("token_ids").or(prompt.get("ids"))?.as_array()?;
    let top = prompt.get("last_logits_top10")?.as_array()?.iter().map(|entry| {
        let (id, logit) = match entry {
            Value::Array(pair) => (pair.first()?, pair.get(1)?),
            object => (object.get("id")?, object.get("logit")?),
        };
        Some((token(id)?, logit.as_f64()?))
    });
    let known = Known {
        ids: ids.iter().map(token).collect::<Option<_>>()?,
        top: top.collect::<Option<_>>()?,
    };
    Some(known).filter(|known| !known.ids.is_empty() && !known.top.is_empty())
}

fn token(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}
