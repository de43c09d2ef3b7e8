//! Library use of `checkpoint`: a tokenizer alone, from a GGUF file to a folder or back.
//!
//! ```sh
//! cargo run --release -p checkpoint --example translate_tokenizer -- model.gguf folder
//! cargo run --release -p checkpoint --example translate_tokenizer -- folder vocabulary.gguf 32000
//! ```
//!
//! The number is that of the embedding's rows. The GGUF file holds no tensors; llama.cpp loads it
//! with `vocab_only`.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use checkpoint::gguf::tokenizer::{TokenizerFiles, from_metadata, to_metadata};
use checkpoint::gguf::{Header, Metadata, header};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "give a GGUF file and a folder, or a folder, a GGUF file and the number of tokens";
    let (from, to) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?);
    let (from, to) = (Path::new(&from), Path::new(&to));
    let notes = if from.is_dir() {
        let num_rows = args.next().ok_or(usage)?.parse()?;
        let mut metadata = Metadata::new(to);
        metadata.set("general.architecture", "llama");
        metadata.set("llama.vocab_size", &u32::try_from(num_rows)?);
        let notes = to_metadata(&TokenizerFiles::read(from)?, num_rows, &mut metadata)
            .map_err(|error| with_causes(&error))?;
        fs::write(to, header::encode(&metadata, &[], [], 32, 0))?;
        notes
    } else {
        let header = Header::read(from)?;
        let embedding = header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        let tokens = header.metadata.array("tokenizer.ggml.tokens")?.map_or(0, |array| array.len());
        let num_rows = embedding.map_or(tokens, |tensor| tensor.shape[0]);
        let folder =
            from_metadata(&header.metadata, num_rows).map_err(|error| with_causes(&error))?;
        fs::create_dir_all(to)?;
        for (name, content) in folder.files {
            fs::write(to.join(name), content)?;
        }
        folder.notes
    };
    for note in notes {
        writeln!(std::io::stderr(), "note: {note}")?;
    }
    Ok(())
}

fn with_causes(error: &checkpoint::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
