//! Tokens with a part to play: the first of a text, the last, and the like.

use super::error::TokenizerError;
use super::vocabulary::{TokenType, Vocabulary};
use crate::error::{Error, Result};
use crate::gguf::metadata::Metadata;

/// The parts, as Hugging Face's `…_token` calls them, and GGUF's keys, the odd spelling included.
pub(super) const ROLES: [(&str, &str); 6] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("mask", "tokenizer.ggml.mask_token_id"),
];

/// Keys of tokens that end a turn, beside EOS; Hugging Face lists all of them as EOS.
pub(super) const OTHER_STOPS: [&str; 2] =
    ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

pub(super) const ADD_BOS_KEY: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS_KEY: &str = "tokenizer.ggml.add_eos_token";

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
                matches!(token.token_type, TokenType::Control | TokenType::Unknown).then_some(*id)
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
            let token_type = &mut vocabulary.tokens[id].token_type;
            if !token_type.is_added() {
                *token_type = TokenType::Control;
            }
        }
        Ok(special)
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
