//! What stands beside a model's weights: its tokenizer, chat template and settings of generation.

use std::path::Path;
use std::sync::Arc;

use checkpoint::gguf::tokenizer::{TokenizerFolder, from_metadata, from_sentencepiece};
use checkpoint::json::Object;

use crate::chat_template::ChatTemplate;
use crate::error::{Error, Result};
use crate::generation_config::GenerationConfig;
use crate::open::Opened;
use crate::tokenizer::Tokenizer;

impl Opened {
    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let vocab_size = self.config.vocab_size;
        let donor = self.donor();
        let (files, path) = match self.tokenizer_files()? {
            Some(files) => (files, self.path().to_owned()),
            None => match from_sentencepiece(donor.folder(), donor.num_embedding_rows())? {
                Some(files) => (Arc::new(files), donor.folder().join("tokenizer.model")),
                None => return Tokenizer::open(donor.folder(), vocab_size),
            },
        };
        match files.files.iter().find(|(name, _)| *name == "tokenizer.json") {
            Some((_, text)) => {
                let tokenizer = Tokenizer::parse(text.as_bytes(), path, vocab_size)?;
                Ok(tokenizer.noted(&files.notes))
            }
            None => Err(Error::NoTokenizer { model: path }),
        }
    }

    /// How it wants a chat written.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        match self.tokenizer_files()? {
            None => ChatTemplate::open(self.donor().folder()),
            Some(files) => {
                let path = self.donor().config_path();
                let config = object_in(&files, "tokenizer_config.json", &path)?;
                ChatTemplate::from_config(&config, &path)
            }
        }
    }

    /// The files of a folder that a GGUF file's tokenizer stands for, with the chat template in
    /// `tokenizer_config.json`; `None` for a folder, which has its own.
    pub fn tokenizer_files(&self) -> Result<Option<Arc<TokenizerFolder>>> {
        let Some(gguf) = self.donor().gguf() else { return Ok(None) };
        if let Some(files) = self.tokenizer_files.get() {
            return Ok(Some(Arc::clone(files)));
        }
        let files = from_metadata(&gguf.metadata, self.donor().num_embedding_rows())?;
        Ok(Some(Arc::clone(self.tokenizer_files.get_or_init(|| Arc::new(files)))))
    }

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let donor = self.donor();
        let (path, config) = (donor.config_path(), donor.config());
        let files = match self.tokenizer_files() {
            Ok(Some(files)) => files,
            Ok(None) => return GenerationConfig::read(donor.folder(), config, &path),
            // A tokenizer that is not read says nothing: tokens may be given by number.
            Err(_) => Arc::default(),
        };
        let own = object_in(&files, "generation_config.json", &path)?;
        GenerationConfig::of(&own, &path, config, &path)
    }
}

/// The object in the file called `name` of what a GGUF file's tokenizer stands for; `path` is the GGUF
/// file. An empty one if there is no such file.
fn object_in(files: &TokenizerFolder, name: &str, path: &Path) -> Result<Object> {
    let text = files.files.iter().find(|(found, _)| *found == name);
    let object = text.map(|(_, text)| Object::parse(text)).transpose();
    let json = |source| checkpoint::Error::Json { path: path.to_owned(), source };
    Ok(object.map_err(json)?.unwrap_or_default())
}
