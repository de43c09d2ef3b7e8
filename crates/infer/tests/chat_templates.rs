//! Chats as transformers renders them, by templates of well-known forms.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::path::Path;

use infer::chat_template::{ChatTemplate, Message};
use serde_json::Value;

/// The clock of `scripts/chat_references.py`: the 26th of July 2024, 9:05:03.
#[expect(clippy::unnecessary_wraps, reason = "a clock may fail")]
fn clock(format: &str) -> Result<String, String> {
    let parts = [
        ("%Y", "2024"),
        ("%m", "07"),
        ("%d", "26"),
        ("%H", "09"),
        ("%M", "05"),
        ("%S", "03"),
        ("%b", "Jul"),
        ("%B", "July"),
        ("%A", "Friday"),
        ("%a", "Fri"),
    ];
    let text = parts.iter().fold(format.to_owned(), |text, (part, is)| text.replace(part, is));
    Ok(text)
}

/// What differs from the references in the file at `path`, a line each.
fn differences(path: &Path) -> Vec<String> {
    let references: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens = references["tokens"].as_object().unwrap().iter();
    let tokens: Vec<(String, String)> =
        tokens.map(|(name, token)| (name.clone(), token.as_str().unwrap().to_owned())).collect();
    let mut differences = Vec::new();
    for template in references["templates"].as_array().unwrap() {
        let (name, source) = (&template["name"], template["source"].as_str().unwrap());
        let opened = ChatTemplate::new(source, Path::new("here"), tokens.clone(), clock);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                differences.push(format!("{name}: {error}"));
                continue;
            }
        };
        for case in template["rendered"].as_array().unwrap() {
            let chat = references["chats"][case["chat"].as_str().unwrap()].clone();
            let chat: Vec<Message> = serde_json::from_value(chat).unwrap();
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let what = format!("{name}, chat {}, prompt {prompt}", case["chat"]);
            match (opened.render(&chat, prompt), case["text"].as_str()) {
                (Ok(text), Some(expected)) if text == expected => {}
                (Err(error), None) => {
                    // What a template says itself is passed on.
                    let said = case["error"].as_str().unwrap();
                    if source.contains(said) && !error.to_string().contains(said) {
                        differences.push(format!("{what}: {error}\nexpected {said}"));
                    }
                }
                // Python's own errors (a loop over None) are not all shared.
                (Ok(_), None) if !source.contains(case["error"].as_str().unwrap()) => {}
                (Ok(text), expected) => differences
                    .push(format!("{what}:\n{text:?}\nexpected\n{expected:?} {}", case["error"])),
                (Err(error), _) => differences.push(format!("{what}: {error}")),
            }
        }
    }
    differences
}

#[test]
fn chats_are_written_as_transformers_writes_them() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat_templates.json");
    assert_eq!(differences(&own), [""; 0]);
    // References of more templates, which are others' to publish.
    if let Some(more) = std::env::var_os("INFER_TEST_CHAT_TEMPLATES") {
        let differences = differences(Path::new(&more));
        assert!(differences.is_empty(), "{}: {}", differences.len(), differences.join("\n"));
    }
}

/// What is found in a folder with these files.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let said = ChatTemplate::open(dir.path())
        .and_then(|template| template.render(&[Message::new("user", "hi")], true));
    let said = said.unwrap_or_else(|error| error.to_string());
    assert_eq!(said.replace(&dir.path().display().to_string(), "DIR"), expected);
}

#[test]
fn a_template_is_found_where_transformers_looks() {
    let config = |template: &str| {
        format!(
            r#"{{"bos_token": {{"content": "<s>"}}, "pad_token": null, "chat_template": {template}}}"#
        )
    };
    let (text, tokens) =
        (config(r#""{{ bos_token + messages[0].content }}""#), r#"{"eos_token": "</s>"}"#);
    check(&[("tokenizer_config.json", &text)], "<s>hi");
    let file = ("chat_template.jinja", "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}");
    check(
        &[("tokenizer_config.json", &text), file, ("special_tokens_map.json", tokens)],
        "<s></s>False",
    );
    let named = r#"[{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]"#;
    check(&[("tokenizer_config.json", &config(named))], "yes");
    let named = r#"[{"name": "rag", "template": "no"}]"#;
    check(
        &[("tokenizer_config.json", &config(named))],
        "DIR/tokenizer_config.json is not read as a chat template: neither a text nor named texts \
         of which one is the default",
    );
    check(&[("tokenizer_config.json", &config("null"))], "DIR has no chat template");
    check(&[], "DIR has no chat template");
}

#[test]
fn a_template_that_fails_says_why() {
    check(
        &[("chat_template.jinja", "{{ raise_exception('no users') }}")],
        "the chat template failed: no users (line 1)",
    );
    check(
        &[("chat_template.jinja", "\n{{ messages[7].content.x }}")],
        "the chat template failed: undefined value (line 2)",
    );
    check(
        &[("chat_template.jinja", "{% if %}")],
        "DIR/chat_template.jinja is not read as a chat template: unexpected end of block (line 1)",
    );
    let nothing = "the chat template failed: it writes nothing of what was said";
    check(&[("chat_template.jinja", "{% if messages[7] %}never{% endif %}\n")], nothing);
    check(&[("tokenizer_config.json", r#"{ "chat_template": "" }"#)], nothing);
}

#[test]
fn a_gguf_files_template_comes_with_its_translated_config() {
    let read = |text: &str| {
        let config = checkpoint::json::Object::parse(text).unwrap();
        ChatTemplate::from_config(&config, Path::new("model.gguf"))
    };
    let text = r#"{"bos_token": "<s>", "chat_template": "{{ bos_token }}{{ messages[0].role }}"}"#;
    let rendered = read(text).unwrap().render(&[Message::new("user", "hi")], true).unwrap();
    assert_eq!(rendered, "<s>user");
    assert_eq!(read("{}").unwrap_err().to_string(), "model.gguf has no chat template");
}
