//! Tokens with a part to play: the first of a text, the last, and the like.

use serde_json::Value;

use super::error::TokenizerError;
use super::tokenizer_files::{
    CONFIG, Configs, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, TokenizerFiles, content,
};
use super::vocabulary::{TokenType, Vocabulary};
use crate::error::{Error, Result};
use crate::gguf::metadata::Metadata;

/// The parts, as Hugging Face's `…_token` calls them, and GGUF's keys, the odd spelling included.
const ROLES: [(&str, &str); 6] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("mask", "tokenizer.ggml.mask_token_id"),
];

/// Keys of tokens that end a turn, beside EOS; Hugging Face lists all of them as EOS.
const OTHER_STOPS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

const ADD_BOS_KEY: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS_KEY: &str = "tokenizer.ggml.add_eos_token";

/// The special tokens of a model.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SpecialTokens {
    /// Parts that are played, and the id of the token that does.
    pub(super) roles: Vec<(&'static str, usize)>,
    /// What ends a text besides EOS.
    pub(super) other_stops: Vec<usize>,
    /// BOS is put before a text.
    pub(super) add_bos: bool,
    /// EOS is put behind a text.
    pub(super) add_eos: bool,
}

/// What llama.cpp takes where a file says nothing.
pub(super) struct Defaults {
    pub(super) roles: &'static [(&'static str, usize)],
    pub(super) add_bos: bool,
}

impl SpecialTokens {
    /// The special tokens of a GGUF file, all of which become control tokens.
    pub(super) fn of_metadata(
        metadata: &Metadata,
        defaults: &Defaults,
        vocabulary: &mut Vocabulary,
    ) -> Result<Self> {
        let failed = |source| Error::Tokenizer { path: metadata.path().to_owned(), source };
        let num_tokens = vocabulary.tokens.len();
        let read = |key: &'static str| -> Result<Option<usize>> {
            match metadata.u64(key)? {
                Some(id) if id >= num_tokens as u64 => {
                    let what = format!("`{key}`");
                    Err(failed(TokenizerError::IdPastEnd { what, id, num_tokens }))
                }
                id => Ok(id.map(|id| id as usize)),
            }
        };
        let mut special = Self::default();
        for (role, key) in ROLES {
            let default = || {
                let (_, id) = defaults.roles.iter().find(|(name, _)| *name == role)?;
                let token = vocabulary.tokens.get(*id)?;
                matches!(token.kind, TokenType::Control | TokenType::Unknown).then_some(*id)
            };
            if let Some(id) = read(key)?.or_else(default) {
                special.roles.push((role, id));
            }
        }
        for key in OTHER_STOPS {
            let id = read(key)?.filter(|&id| special.role("eos") != Some(id));
            special.other_stops.extend(id.filter(|id| !special.other_stops.contains(id)));
        }
        let said = metadata.bool(ADD_BOS_KEY)?;
        if said == Some(true) && special.role("bos").is_none() {
            return Err(failed(TokenizerError::KeyMissing { key: ROLES[0].1 }));
        }
        special.add_bos = said.unwrap_or(defaults.add_bos) && special.role("bos").is_some();
        special.add_eos = metadata.bool(ADD_EOS_KEY)?.unwrap_or(false);
        if special.add_eos && special.role("eos").is_none() {
            return Err(failed(TokenizerError::KeyMissing { key: ROLES[1].1 }));
        }
        let ids =
            special.roles.iter().map(|&(_, id)| id).chain(special.other_stops.iter().copied());
        for id in ids {
            let kind = &mut vocabulary.tokens[id].kind;
            if !kind.is_added() {
                *kind = TokenType::Control;
            }
        }
        Ok(special)
    }

    /// The special tokens of a folder.
    ///
    /// `around` are the tokens that the post-processor puts before and behind a text.
    pub(super) fn of_folder(
        files: &TokenizerFiles,
        configs: &Configs,
        vocabulary: &Vocabulary,
        around: Option<(Option<usize>, Option<usize>)>,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let num_tokens = vocabulary.tokens.len();
        let mut special = Self::default();
        for (role, _) in ROLES {
            let key = format!("{role}_token");
            let text = content(&configs.tokenizer[&key]).or(content(&configs.special_tokens[&key]));
            let id = text.and_then(|text| vocabulary.id(text));
            let id = match id {
                Some(id) => Some(id),
                None => [(&configs.generation, GENERATION_CONFIG), (&configs.model, CONFIG)]
                    .into_iter()
                    .find_map(|(config, name)| {
                        Some((stops(&config[format!("{key}_id")]).next()?, name))
                    })
                    .map(|(id, name)| {
                        let what = format!("`{key}_id`");
                        let past_end = TokenizerError::IdPastEnd { what, id, num_tokens };
                        let fits = (id as usize) < num_tokens;
                        if fits { Ok(id as usize) } else { Err(files.failed(name, past_end)) }
                    })
                    .transpose()?,
            };
            special.roles.extend(id.map(|id| (role, id)));
        }
        let is_alone = !files.texts.contains_key(TOKENIZER);
        if is_alone && special.role("bos").is_none() {
            // What Llama's tokenizer calls it where nothing else is said.
            let bos = vocabulary.id("<s>");
            let bos = bos.filter(|&id| vocabulary.tokens[id].kind == TokenType::Control);
            special.roles.extend(bos.map(|id| ("bos", id)));
        }
        let eos = special.role("eos");
        for id in stops(&configs.generation["eos_token_id"]).map(|id| id as usize) {
            if id < num_tokens && Some(id) != eos && !special.other_stops.contains(&id) {
                special.other_stops.push(id);
            }
        }
        if special.other_stops.len() > OTHER_STOPS.len() {
            for id in special.other_stops.drain(OTHER_STOPS.len()..) {
                let text = &vocabulary.tokens[id].text;
                notes
                    .push(format!("GGUF has no key for one more token that ends a text, {text:?}"));
            }
        }
        special.put_around(configs, vocabulary, around, is_alone, notes);
        Ok(special)
    }

    /// Whether BOS and EOS are put around a text: the post-processor decides, if there is one.
    ///
    /// So do transformers 5 and llama.cpp's converter; transformers 4 asked the flags of
    /// `tokenizer_config.json` first if the class was Llama's. For a `tokenizer.model` that stands
    /// alone nothing may decide: BOS is put before a text, as transformers 4 and llama.cpp do and the
    /// documentation of transformers 5 says. (Its code, up to 5.23 at least, puts none.)
    fn put_around(
        &mut self,
        configs: &Configs,
        vocabulary: &Vocabulary,
        around: Option<(Option<usize>, Option<usize>)>,
        is_alone: bool,
        notes: &mut Vec<String>,
    ) {
        let class = configs.tokenizer["tokenizer_class"].as_str();
        let is_llama = class.map_or(is_alone, |class| class.starts_with("Llama"));
        let (first, last) = around.unwrap_or_default();
        for (role, id, by_class) in [("bos", first, is_llama), ("eos", last, false)] {
            if self.role(role).is_none() {
                self.roles.extend(id.map(|id| (role, id)));
            }
            let key = format!("add_{role}_token");
            let said = configs.tokenizer[&key].as_bool();
            let own = self.role(role);
            let added = own.is_some()
                && if around.is_some() { id == own } else { said.unwrap_or(by_class) };
            if let Some(id) = id.filter(|&id| own != Some(id)) {
                let text = &vocabulary.tokens[id].text;
                notes.push(format!(
                    "llama.cpp does not put {text:?} around a text as the tokenizer does"
                ));
            } else if is_alone && added && said.is_none() {
                notes.push(format!(
                    "BOS is put before a text, which `{key}` of {TOKENIZER_CONFIG} leaves open"
                ));
            } else if own.is_some() && said.is_some_and(|said| said != added) {
                notes.push(format!(
                    "`{key}` of {TOKENIZER_CONFIG} is {}, but the post-processor of {TOKENIZER} says \
                     {added}, which counts",
                    !added
                ));
            }
            if role == "bos" {
                self.add_bos = added;
            } else {
                self.add_eos = added;
            }
        }
    }

    /// The token that plays the part `role`.
    pub(super) fn role(&self, role: &str) -> Option<usize> {
        self.roles.iter().find(|(name, _)| *name == role).map(|&(_, id)| id)
    }

    /// Writes the keys.
    pub(super) fn write(&self, metadata: &mut Metadata) {
        for (role, key) in ROLES {
            if let Some(id) = self.role(role) {
                metadata.set(key, &(id as u32));
            }
        }
        for (key, &id) in OTHER_STOPS.into_iter().zip(&self.other_stops) {
            metadata.set(key, &(id as u32));
        }
        metadata.set(ADD_BOS_KEY, &self.add_bos);
        metadata.set(ADD_EOS_KEY, &self.add_eos);
    }
}

/// One id or several; what is no id is none.
fn stops(value: &Value) -> impl Iterator<Item = u64> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_u64)
}
