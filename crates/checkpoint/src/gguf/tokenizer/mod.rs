//! Tokenizers, from a GGUF file to a Hugging Face folder and back.
//!
//! Values go in and values come out; nothing here runs a tokenizer. Two of GGUF's models are known:
//! `llama`, `SentencePiece`'s BPE with a score for each token, and `gpt2`, BPE on bytes with a list of
//! merges and a name for the way text is cut into words. In reading order:
//!
//! - [`error`]: why a tokenizer cannot be translated
//! - `vocabulary`, `merges`: tokens, and what becomes one
//! - `pre_tokenizer`: llama.cpp's names for ways to cut text, in a table
//! - `special_tokens`, `chat_template`: what stands around the text
//! - [`from_metadata()`]: the files of a folder
//! - [`TokenizerFiles`], `tokenizer_json`, `sentencepiece`: what a folder says
//! - `rows`, [`to_metadata()`]: the keys of a GGUF file
//! - [`from_sentencepiece()`]: a folder of `SentencePiece`'s own file as one with a `tokenizer.json`

pub mod error;

mod chat_template;
mod from_metadata;
mod from_sentencepiece;
mod merges;
mod pre_tokenizer;
mod rows;
mod sentencepiece;
mod special_tokens;
mod to_metadata;
mod tokenizer_files;
mod tokenizer_json;
mod vocabulary;

pub use error::TokenizerError;
pub use from_metadata::{TokenizerFolder, from_metadata};
pub use from_sentencepiece::from_sentencepiece;
pub use to_metadata::to_metadata;
pub use tokenizer_files::TokenizerFiles;

const MODEL_KEY: &str = "tokenizer.ggml.model";
const PRE_KEY: &str = "tokenizer.ggml.pre";
const ADD_PREFIX_KEY: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_SPACES_KEY: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// What `SentencePiece` writes for a space.
const SPACE: &str = "▁";
