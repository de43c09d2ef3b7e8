//! What can be wrong with a tokenizer that goes from a GGUF file to a folder or back.

/// Why a tokenizer cannot be translated; the file stands in the error around it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A tokenizer model that is not translated.
    #[error("its model is `{found}`; known are {known}")]
    Model {
        /// The model's name.
        found: String,
        /// Those that are translated.
        known: &'static str,
    },

    /// A name of a pre-tokenizer that is not in the table.
    #[error("its pre-tokenizer is `{name}`, which has no translation here")]
    PreTokenizer {
        /// `tokenizer.ggml.pre`.
        name: String,
    },

    /// A `pre_tokenizer` of `tokenizer.json` that llama.cpp has no name for.
    #[error("llama.cpp has no name for its pre_tokenizer {form}")]
    PreTokenizerForm {
        /// The `pre_tokenizer`, as JSON.
        form: String,
    },

    /// A `normalizer` of `tokenizer.json` that llama.cpp cannot do.
    #[error("llama.cpp cannot do what its normalizer does: {form}")]
    Normalizer {
        /// The `normalizer`, as JSON.
        form: String,
    },

    /// A key that must be there and is not.
    #[error("it lacks the key `{key}`")]
    KeyMissing {
        /// The key.
        key: &'static str,
    },

    /// An array with more or fewer values than there are tokens.
    #[error("`{key}` has {found} values, but there are {num_tokens} tokens")]
    Length {
        /// The array's key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        num_tokens: usize,
    },

    /// More or fewer tokens than the embedding has rows.
    #[error("it has {num_tokens} tokens, but the embedding has {num_rows} rows")]
    Rows {
        /// The number of tokens.
        num_tokens: usize,
        /// The number of rows.
        num_rows: usize,
    },

    /// A text with two ids.
    #[error("the token {token:?} has the ids {first} and {second}")]
    TokenTwice {
        /// The text.
        token: String,
        /// An id of it.
        first: usize,
        /// Another.
        second: usize,
    },

    /// An id with two texts.
    #[error("the id {id} is both {first:?} and {second:?}")]
    IdTwice {
        /// The id.
        id: usize,
        /// A text of it.
        first: String,
        /// Another.
        second: String,
    },

    /// An id that no row of the embedding has.
    #[error("{what} has the id {id}, but there are {num_tokens} tokens")]
    IdPastEnd {
        /// The token or the key that names it.
        what: String,
        /// The id.
        id: u64,
        /// The number of tokens.
        num_tokens: usize,
    },

    /// A type of token that does not exist.
    #[error("token {id} has the type {found}; types go from 0 to 6")]
    TokenType {
        /// The token.
        id: usize,
        /// The number of its type.
        found: String,
    },

    /// A merge of, or into, something that is no token.
    #[error("merge {index} is {merge:?}, and {missing:?} is no token")]
    Merge {
        /// Its place, from 0.
        index: usize,
        /// The merge.
        merge: String,
        /// What is not in the vocabulary.
        missing: String,
    },

    /// A `SentencePiece` model that is no such thing.
    #[error("it is no SentencePiece model: {what}")]
    SentencePiece {
        /// What is wrong.
        what: String,
    },

    /// Something that can be said in one form and not in the other.
    #[error("{what}")]
    NotTranslated {
        /// What, and why not.
        what: String,
    },
}
