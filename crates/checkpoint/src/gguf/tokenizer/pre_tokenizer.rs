//! How text is cut into words before bytes are merged: llama.cpp's names, and the steps they stand for.
//!
//! A GGUF file names its pre-tokenizer; `tokenizer.json` spells it out. [`TABLE`] has both. The names
//! and what each does are those of llama.cpp's `src/llama-vocab.cpp` (sdist of llama-cpp-python
//! 0.3.36). Where that file quotes the regex of the published `tokenizer.json` beside its own
//! rewriting, the published one stands here: it is what the model was trained with.

use serde_json::{Value, json};

use super::error::TokenizerError;

/// A step from text to words.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// What the regex matches, and what lies between matches, is a piece of its own.
    Split(&'static str),
    /// Each digit is a piece.
    Digits,
    /// A run of digits is a piece.
    DigitRuns,
    /// A run of ASCII or Unicode punctuation is a piece.
    Punctuation,
    /// GPT-2's regex, which `ByteLevel` brings along, and then [`Step::Bytes`].
    Gpt2Bytes,
    /// Bytes become printable letters, with which the vocabulary is written.
    Bytes,
}

use Step::{Bytes, DigitRuns, Digits, Gpt2Bytes, Punctuation, Split};

/// A pre-tokenizer that llama.cpp has a name for.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// `tokenizer.ggml.pre`.
    pub(super) name: &'static str,
    steps: &'static [Step],
    /// A word that is a token is taken as it is, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// The published tokenizers of this name compose characters (NFC) first. llama.cpp never does.
    pub(super) nfc: bool,
    /// BOS is added where the file does not say.
    pub(super) add_bos: bool,
    /// What llama.cpp cuts in another way than the regex says.
    pub(super) llama_cpp_differs_on: Option<&'static str>,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";

const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// The letters of scripts with case.
const CASED: &str = "\
    \\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\
    \u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\
    \u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\
    \u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\
    \u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\
    \u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\
    \u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\
    \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\
    \u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\
    \u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\
    \u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\
    \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\
    \u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\
    \u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
    \u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";

const AYA_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// The regexes of llama.cpp are run on text in which all letters look the same. What that changes was
/// found by running both on a thousand documents in many scripts; nothing else was seen to differ.
const MARKS: &str = "combining marks, as in Hindi and Thai";
const DIGITS_AND_MARKS: &str = "long numbers beside letters and combining marks";
const WIDE_SPACES: &str = "spaces beyond ASCII";

/// All that is known, by form; of several names with one form, the first is the one written.
pub(super) static TABLE: &[PreTokenizer] = &[
    plain("gpt-2", &[Gpt2Bytes]),
    plain("phi-2", &[Gpt2Bytes]),
    plain("jais", &[Gpt2Bytes]),
    plain("gigachat", &[Gpt2Bytes]),
    plain("a.x-4.0", &[Gpt2Bytes]),
    plain("mellum", &[Gpt2Bytes]),
    plain("exaone4", &[Gpt2Bytes]),
    plain("trillion", &[Gpt2Bytes]),
    plain("granite-docling", &[Gpt2Bytes]),
    plain("olmo", &[Gpt2Bytes]).nfc(),
    plain("mpt", &[Gpt2Bytes]).nfc(),
    plain("smollm", &[Digits, Gpt2Bytes]),
    plain("starcoder", &[Digits, Gpt2Bytes]),
    plain("refact", &[Digits, Gpt2Bytes]),
    plain("codeshell", &[Digits, Gpt2Bytes]),
    plain("exaone", &[Digits, Gpt2Bytes]),
    plain("minerva-7b", &[Digits, Gpt2Bytes]),
    plain("mellum2", &[Digits, Gpt2Bytes]),
    plain("command-r", &[Digits, Gpt2Bytes]).nfc(),
    plain("llama-bpe", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("llama3", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("llama-v3", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("falcon3", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("falcon-h1", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("pixtral", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("midm-2.0", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("lfm2", &[Split(LLAMA3), Bytes]).ignore_merges().add_bos(),
    plain("glm4", &[Split(LLAMA3), Bytes]).ignore_merges(),
    plain("glm5", &[Split(LLAMA3), Bytes]).ignore_merges(),
    plain("dbrx", &[Split(LLAMA3), Bytes]),
    plain("smaug-bpe", &[Split(LLAMA3), Bytes]),
    plain("chatglm-bpe", &[Split(LLAMA3), Bytes]),
    plain("qwen2", &[Split(QWEN2), Bytes]).nfc(),
    plain("deepseek-r1-qwen", &[Split(QWEN2), Bytes]),
    plain("stablelm2", &[Split(QWEN2), Bytes]),
    plain("megrez", &[Split(QWEN2), Bytes]),
    plain("kormo", &[Split(QWEN2), Bytes]),
    plain("hunyuan", &[Split(QWEN2), Bytes]),
    plain("solar-open", &[Split(QWEN2), Bytes]),
    plain("grok-2", &[Split(QWEN2), Bytes]),
    plain("f2llmv2", &[Split(QWEN2), Bytes]),
    plain("qwen35", &[Split(QWEN35), Bytes]).nfc(),
    plain("tekken", &[Split(TEKKEN), Bytes]).ignore_merges().add_bos().but(MARKS),
    plain("gpt-4o", &[Split(GPT4O), Bytes]).but(MARKS),
    plain("llama4", &[Split(GPT4O), Bytes]).but(MARKS),
    plain("kanana2", &[Split(GPT4O), Bytes]).but(MARKS),
    plain("talkie", &[Split(GPT4O), Bytes]).but(MARKS),
    plain("minimax-m2", &[Split(GPT4O), Bytes]).but(MARKS),
    plain("tiny_aya", &[Split(AYA_DIGITS), Split(GPT4O), Bytes]).but(DIGITS_AND_MARKS),
    plain("cohere2moe", &[Split(AYA_DIGITS), Split(GPT4O), Bytes]).but(DIGITS_AND_MARKS),
    plain("deepseek-v3", &[Split(r"\p{N}{1,3}"), Split(CJK), Split(DEEPSEEK3), Bytes]),
    plain("hunyuan-dense", &[Split(r"\p{N}{1,3}"), Split(CJK), Split(DEEPSEEK3), Bytes]),
    plain("joyai-llm", &[Split(r"\p{N}{1,3}"), Split(CJK), Split(DEEPSEEK3), Bytes]),
    plain("hy_v4", &[Split(r"\p{N}{1,3}"), Split(CJK), Split(DEEPSEEK3), Bytes]),
    plain(
        "deepseek-llm",
        &[
            Split(r"[\r\n]"),
            Split(CASED),
            Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Split(r"\s+$"),
            Split("[一-龥ࠀ-一가-퟿]+"),
            DigitRuns,
            Bytes,
        ],
    )
    .but(WIDE_SPACES),
    plain(
        "deepseek-coder",
        &[
            Split(r"[\r\n]"),
            Split(r"\s?\p{L}+"),
            Split(r"\s?\p{P}+"),
            Split("[一-龥ࠀ-一가-퟿]+"),
            Digits,
            Bytes,
        ],
    )
    .but(WIDE_SPACES),
    plain("falcon", &[Punctuation, Split(GPT2), Split("[0-9][0-9][0-9]"), Bytes]),
    plain("bloom", &[Split(BLOOM), Bytes]),
    plain("poro-chat", &[Split(BLOOM), Bytes]),
    plain("gpt3-finnish", &[Split(BLOOM), Bytes]),
    plain("viking", &[Split(BLOOM), Digits, Bytes]),
    plain("superbpe", &[DigitRuns, Split(r"(?=(\d{3})+(?!\d))"), Bytes]),
    plain(
        "chameleon",
        &[
            Split("<sentinel:[0-9]+>"),
            Split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            Split(r"([\t\n]|    |  )"),
            Digits,
            Split(r"[\p{P}!-/:-@\[-`{-~]"),
            Gpt2Bytes,
        ],
    )
    .add_bos(),
    plain(
        "seed-coder",
        &[
            Split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            Bytes,
        ],
    ),
    plain("bailingmoe", &[Split(BAILING), Bytes]),
    plain("bailingmoe2", &[Split(BAILING), Bytes]),
    plain("llada-moe", &[Split(BAILING), Bytes]),
    plain(
        "exaone-moe",
        &[
            Split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            ),
            Bytes,
        ],
    ),
    plain(
        "jais-2",
        &[
            Split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
            ),
            Bytes,
        ],
    ),
    plain(
        "minicpm5",
        &[
            Split(r"\p{N}{1,3}"),
            Split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            Bytes,
        ],
    )
    .ignore_merges(),
    plain("laguna", &[Split(r"[^\n]+|[\n]+"), Split(QWEN2), Bytes]),
    plain(
        "default",
        &[
            Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Split(GPT2),
            DigitRuns,
            Split("[0-9][0-9][0-9]"),
            Bytes,
        ],
    ),
];

const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// Forms of published files that llama.cpp knows by a name, but does in another way.
///
/// `DeepSeek` LLM cuts digits one by one and has no token of two; to llama.cpp a run is one piece.
/// A class in a class is their union, so Bloom's two are the same.
const OTHER_FORMS: &[(&str, &[Step])] = &[
    (
        "deepseek-llm",
        &[
            Split(r"[\r\n]"),
            Split(CASED),
            Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Split(r"\s+$"),
            Split("[一-龥ࠀ-一가-퟿]+"),
            Digits,
            Bytes,
        ],
    ),
    ("bloom", &[Split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), Bytes]),
];

const fn plain(name: &'static str, steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer {
        name,
        steps,
        ignore_merges: false,
        nfc: false,
        add_bos: false,
        llama_cpp_differs_on: None,
    }
}

impl PreTokenizer {
    const fn nfc(self) -> Self {
        Self { nfc: true, ..self }
    }

    const fn ignore_merges(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn add_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }

    const fn but(self, what: &'static str) -> Self {
        Self { llama_cpp_differs_on: Some(what), ..self }
    }

    /// The pre-tokenizer that llama.cpp calls `name`.
    pub(super) fn named(name: &str) -> Result<&'static Self, TokenizerError> {
        TABLE
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| TokenizerError::PreTokenizer { name: name.to_owned() })
    }

    /// The pre-tokenizers with the form `form`, which is `pre_tokenizer` of a `tokenizer.json`.
    ///
    /// There is one at least; several differ in what is not part of the form.
    pub(super) fn of_form(form: &Value) -> Result<Vec<&'static Self>, TokenizerError> {
        let unknown = || TokenizerError::PreTokenizerForm { form: form.to_string() };
        let mut found = Vec::new();
        flatten(form, &mut found).ok_or_else(unknown)?;
        let is_found = |steps: &[Step]| canonical(steps) == found;
        let other = OTHER_FORMS.iter().find(|(_, steps)| is_found(steps)).map(|&(name, _)| name);
        let names: Vec<&Self> = TABLE
            .iter()
            .filter(|entry| is_found(entry.steps) || Some(entry.name) == other)
            .collect();
        if names.is_empty() { Err(unknown()) } else { Ok(names) }
    }

    /// The value of `pre_tokenizer` in a `tokenizer.json`.
    pub(super) fn form(&self) -> Value {
        let mut steps: Vec<Value> = self.steps.iter().map(|step| step.form()).collect();
        if steps.len() == 1 {
            return steps.remove(0);
        }
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

impl Step {
    fn form(self) -> Value {
        match self {
            Split(regex) => json!({
                "type": "Split",
                "pattern": { "Regex": regex },
                "behavior": "Isolated",
                "invert": false,
            }),
            Digits => json!({ "type": "Digits", "individual_digits": true }),
            DigitRuns => json!({ "type": "Digits", "individual_digits": false }),
            Punctuation => json!({ "type": "Punctuation", "behavior": "Contiguous" }),
            Gpt2Bytes | Bytes => json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": matches!(self, Gpt2Bytes),
            }),
        }
    }
}

/// A step as it is compared: a regex, or nothing but bytes that become letters.
type Canonical = Option<String>;

const DIGIT: &str = r"\p{N}";
const DIGIT_RUN: &str = r"\p{N}+";
const PUNCTUATION_RUN: &str = r"[\p{P}\$\+<=>\^~\|`]+";

fn canonical(steps: &[Step]) -> Vec<Canonical> {
    let mut found = Vec::new();
    for step in steps {
        match step {
            Split(regex) => found.push(Some(respelled(regex))),
            Digits => found.push(Some(DIGIT.to_owned())),
            DigitRuns => found.push(Some(DIGIT_RUN.to_owned())),
            Punctuation => found.push(Some(PUNCTUATION_RUN.to_owned())),
            Gpt2Bytes => found.extend([Some(GPT2.to_owned()), None]),
            Bytes => found.push(None),
        }
    }
    found
}

/// Appends the steps of a `pre_tokenizer`; `None` if one of them is of no known kind.
fn flatten(form: &Value, found: &mut Vec<Canonical>) -> Option<()> {
    let flag = |key: &str, default: bool| form.get(key).map_or(Some(default), Value::as_bool);
    match form.get("type")?.as_str()? {
        "Sequence" => {
            for step in form.get("pretokenizers")?.as_array()? {
                flatten(step, found)?;
            }
        }
        "Split" => {
            let regex = form.get("pattern")?.get("Regex")?.as_str()?;
            let invert = flag("invert", false)?;
            // To keep only what matches is the same if everything matches.
            let is_covering = regex.ends_with(r"|\s+(?!\S)|\s+");
            match form.get("behavior")?.as_str()? {
                "Isolated" if !invert => {}
                "Removed" if invert && is_covering => {}
                _ => return None,
            }
            found.push(Some(respelled(regex)));
        }
        "Digits" => {
            let digit = if flag("individual_digits", false)? { DIGIT } else { DIGIT_RUN };
            found.push(Some(digit.to_owned()));
        }
        "Punctuation" if form.get("behavior")?.as_str()? == "Contiguous" => {
            found.push(Some(PUNCTUATION_RUN.to_owned()));
        }
        "ByteLevel" if !flag("add_prefix_space", true)? => {
            if flag("use_regex", true)? {
                found.push(Some(GPT2.to_owned()));
            }
            found.push(None);
        }
        _ => return None,
    }
    Some(())
}

/// `regex` in the one of several spellings that is compared.
fn respelled(regex: &str) -> String {
    let spelled = regex
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace('\t', r"\t")
        .replace(
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        )
        .replace("{1}|", "|");
    if spelled == GPT2.strip_suffix(r"|\s+").unwrap_or(GPT2) { GPT2.to_owned() } else { spelled }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_form_is_recognised_as_its_own_name_or_one_that_does_the_same() {
        for entry in TABLE {
            let names = PreTokenizer::of_form(&entry.form()).unwrap();
            assert!(names.iter().any(|found| found.name == entry.name), "{}", entry.name);
            for found in names {
                assert_eq!(found.form(), entry.form(), "{} and {}", found.name, entry.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = TABLE.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn other_forms_lead_to_their_names() {
        for (name, steps) in OTHER_FORMS {
            let steps: Vec<Value> = steps.iter().map(|step| step.form()).collect();
            let form = json!({ "type": "Sequence", "pretokenizers": steps });
            let names = PreTokenizer::of_form(&form).unwrap();
            assert!(names.iter().any(|found| found.name == *name), "{name}");
        }
    }

    #[track_caller]
    fn check_refused(form: &Value) {
        let error = PreTokenizer::of_form(form).unwrap_err();
        assert!(error.to_string().contains(&form.to_string()), "{error}");
    }

    #[test]
    fn what_llama_cpp_cannot_do_is_refused_with_its_form() {
        check_refused(&json!({ "type": "Whitespace" }));
        check_refused(&json!({ "type": "ByteLevel", "add_prefix_space": true }));
        check_refused(
            &json!({ "type": "Split", "pattern": { "Regex": "a+" }, "behavior": "Isolated" }),
        );
        check_refused(
            &json!({ "type": "Split", "pattern": { "Regex": GPT2 }, "behavior": "MergedWithNext" }),
        );
        check_refused(&Value::Null);
    }

    #[test]
    fn what_matches_everything_may_remove_the_rest() {
        let form = json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": GPT4O }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
        ] });
        assert_eq!(PreTokenizer::of_form(&form).unwrap()[0].name, "gpt-4o");
    }
}
