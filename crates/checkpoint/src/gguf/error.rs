//! What can be wrong with a GGUF file.

/// What is wrong with a GGUF file, whose path stands in the error around it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// It does not begin with `GGUF`.
    #[error("it does not begin with the letters GGUF")]
    Magic,

    /// Written for machines of the other byte order.
    #[error("it is big-endian, which is not read")]
    BigEndian,

    /// A version that is not read.
    #[error("it is of version {version}; versions 2 and 3 are read")]
    Version {
        /// The version.
        version: u32,
    },

    /// It ends in the midst of its header.
    #[error("it ends within its header, after {bytes} bytes")]
    EndsEarly {
        /// Its length.
        bytes: u64,
    },

    /// Its header cannot be told apart into keys and tensors.
    #[error("its header is broken: {what}")]
    Header {
        /// What is wrong.
        what: String,
    },

    /// An alignment that no loader takes.
    #[error("`general.alignment` is {found}, which is no power of two from 1 to 65,536")]
    Alignment {
        /// The alignment.
        found: u64,
    },

    /// A type that is not known.
    #[error("`{tensor}` has the unknown type {id}")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of its type.
        id: u32,
    },

    /// A shape that tensors of the type cannot have.
    #[error("`{tensor}` is {ggml_type} of {shape:?}, which is no whole number of blocks")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its type.
        ggml_type: super::GgmlType,
        /// Its shape, the rows' length first, as ggml counts.
        shape: Vec<u64>,
    },

    /// A tensor that begins at an odd place.
    #[error("`{tensor}` begins at {offset}, which is no multiple of the alignment {alignment}")]
    Offset {
        /// The tensor.
        tensor: String,
        /// Where it begins, counted from the end of the header.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },

    /// A tensor that ends behind the file.
    #[error("`{tensor}` ends at {end}, but the file has {bytes} bytes")]
    PastEnd {
        /// The tensor.
        tensor: String,
        /// Where it ends.
        end: u128,
        /// The file's length.
        bytes: u64,
    },

    /// Two tensors that share bytes.
    #[error("`{first}` and `{second}` overlap")]
    Overlap {
        /// A tensor.
        first: String,
        /// The tensor that begins before its end.
        second: String,
    },

    /// A name that stands twice.
    #[error("`{tensor}` stands in it twice")]
    TensorTwice {
        /// The name.
        tensor: String,
    },

    /// A part of a split file that is not there.
    #[error("it is part of a split file, of which {part} is missing")]
    MissingPart {
        /// The part's file name.
        part: String,
    },

    /// Parts of a split file that do not belong together.
    #[error("it is part of a split file, and {what}")]
    Parts {
        /// What does not fit.
        what: String,
    },

    /// An architecture whose tensors and keys are not known.
    #[error("its architecture is `{found}`; known are {known}")]
    Architecture {
        /// `general.architecture`.
        found: String,
        /// The architectures that are known.
        known: String,
    },

    /// A key that must be there and is not.
    #[error("it lacks the key `{key}`")]
    KeyMissing {
        /// The key.
        key: String,
    },

    /// A tensor that no model of the architecture has.
    #[error("`{tensor}` is no tensor of the architecture `{architecture}`")]
    UnknownTensor {
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: String,
    },

    /// Something the metadata says that the tensors, or other metadata, contradict.
    #[error("{what}")]
    Contradiction {
        /// What says what.
        what: String,
    },

    /// Something that can be said in this form and not in the other.
    #[error("{what}")]
    NotTranslated {
        /// What, and why not.
        what: String,
    },
}
