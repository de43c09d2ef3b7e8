//! Jinja as transformers sets it up for chat templates (`chat_template_utils.py`, version 5.23).
//!
//! Templates are written for Python: values print as Python prints them, strings and dictionaries have
//! Python's methods, and `tojson` is `json.dumps`.

use std::fmt::Write as _;

use checkpoint::json::float_text;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

/// What a template's `strftime_now(format)` says; the error is why it cannot.
pub type Clock = fn(format: &str) -> Result<String, String>;

/// The name of the one template of an [`environment`].
pub(crate) const NAME: &str = "chat";

/// The time of this machine, in its time zone.
pub fn local_time(format: &str) -> Result<String, String> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| error.to_string())
}

/// An environment with `source` as its one template, [`NAME`].
pub(crate) fn environment(source: &str, clock: Clock) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| Ok(out.write_str(&text(value))?));
    environment.add_filter("tojson", to_json);
    // None is not, in Python.
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && !value.is_undefined() && value.try_iter().is_ok()
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| {
        clock(&format).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment.add_template_owned(NAME, without_generation_blocks(source))?;
    Ok(environment)
}

/// `{% generation %}` marks what an assistant said, for training; its text stands as it is.
fn without_generation_blocks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, block)) = rest.split_once("{%") {
        let Some((tag, after)) = block.split_once("%}") else { break };
        text.push_str(before);
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let tag = match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_owned(),
        };
        let _ = write!(text, "{{%{tag}%}}");
        rest = after;
    }
    text + rest
}

/// Python's `str(value)`.
fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.to_string(),
        _ => representation(value),
    }
}

/// Python's `repr(value)`.
fn representation(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::String => quoted(&value.to_string()),
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            format!("[{}]", list(items.map(|item| representation(&item)).collect()))
        }
        ValueKind::Map => {
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", representation(&key), representation(&item))
            };
            format!("{{{}}}", list(value.try_iter().into_iter().flatten().map(entry).collect()))
        }
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float_text)
        }
        _ => value.to_string(),
    }
}

/// In single quotes, unless only those stand in the text.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            _ if c == quote => quoted.extend(['\\', c]),
            _ => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// `json.dumps` with `ensure_ascii=False`, unless the template says otherwise.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands options over by value")]
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let json = serde_json::to_value(value).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "the value is not JSON's").with_source(error)
    })?;
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) if indent.is_none() || indent.is_undefined() => None,
        Some(indent) => Some(match usize::try_from(indent.clone()) {
            Ok(width) => " ".repeat(width),
            Err(_) => indent.to_string(),
        }),
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        _ if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        _ => [", ".to_owned(), ": ".to_owned()],
    };
    let style = JsonStyle {
        indent,
        item,
        key,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut text = String::new();
    style.write(&json, 0, &mut text);
    Ok(Value::from_safe_string(text))
}

/// How JSON is laid out, by the arguments of `json.dumps`.
struct JsonStyle {
    indent: Option<String>,
    /// What stands between two items.
    item: String,
    /// What stands behind a key.
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl JsonStyle {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) => self.block(['[', ']'], items.len(), depth, out, |i, out| {
                self.write(&items[i], depth + 1, out);
            }),
            Json::Object(object) => {
                let mut entries: Vec<_> = object.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.block(['{', '}'], entries.len(), depth, out, |i, out| {
                    let (key, value) = entries[i];
                    self.string(key, out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out);
                });
            }
            Json::String(text) => self.string(text, out),
            Json::Number(number) if number.is_f64() => {
                out.push_str(&float_text(number.as_f64().unwrap_or(f64::NAN)));
            }
            other => {
                let _ = write!(out, "{other}");
            }
        }
    }

    fn block(
        &self,
        [open, close]: [char; 2],
        len: usize,
        depth: usize,
        out: &mut String,
        write: impl Fn(usize, &mut String),
    ) {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent.as_ref().filter(|_| len > 0) {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for i in 0..len {
            if i > 0 {
                out.push_str(&self.item);
            }
            line(depth + 1, out);
            write(i, out);
        }
        line(depth, out);
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        let quoted = Json::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() && c != '\x7f' {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}
