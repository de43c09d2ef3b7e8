//! What stands beside the weights: small stand-ins, each with a text of its own.

use std::path::Path;

use serde_json::json;

/// The names that [`write()`] writes and that a model made from this one keeps, sorted.
pub const KEPT: [&str; 7] = [
    "LICENSE",
    "chat_template.jinja",
    "generation_config.json",
    "modeling_custom.py",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The card, whose front matter a model made from this one inherits.
pub const README: &str = "---
license: apache-2.0
language:
- en
- de
tags:
- test
---

# A tiny model

Its numbers are random.
";

/// Writes tokenizer, generation config, chat template, custom code, licence and card into `dir`.
pub fn write(dir: &Path) {
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "model": {
            "type": "WordLevel",
            "vocab": { "<unk>": 0, "<s>": 1, "</s>": 2, "depth": 3, "up": 4 },
            "unk_token": "<unk>",
        },
    });
    let special = json!({ "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>" });
    let tokenizer_config =
        json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>" });
    let files = [
        ("LICENSE", "Apache License, Version 2.0\n".to_owned()),
        ("README.md", README.to_owned()),
        ("chat_template.jinja", "{{ messages[0].content }}\n".to_owned()),
        ("generation_config.json", json!({ "bos_token_id": 1, "eos_token_id": 2 }).to_string()),
        ("modeling_custom.py", "# custom code\n".to_owned()),
        ("special_tokens_map.json", special.to_string()),
        ("tokenizer.json", tokenizer.to_string()),
        ("tokenizer_config.json", tokenizer_config.to_string()),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).expect("a side file can be written");
    }
}
