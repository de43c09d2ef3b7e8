//! The typed values of metadata.

/// A value with its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8; the bytes need not be UTF-8.
    Bytes(Vec<u8>),
    /// Type 9: the type of the values, which it has without any too, and the values.
    Array(u32, Vec<Value>),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
    /// What no file should have: a type and bytes.
    Raw(u32, Vec<u8>),
}

impl Value {
    /// A string.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }

    /// An array, which takes its type from the first value.
    #[must_use]
    pub fn array(values: impl IntoIterator<Item = Value>) -> Self {
        let values: Vec<Value> = values.into_iter().collect();
        Self::Array(values.first().expect("an array of something").type_id(), values)
    }

    /// The string that it is.
    #[must_use]
    pub fn as_text(&self) -> &str {
        let Self::Bytes(bytes) = self else { panic!("{self:?} is no string") };
        std::str::from_utf8(bytes).expect("the string is UTF-8")
    }

    /// The number of its type.
    #[must_use]
    pub fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Bytes(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
            Self::Raw(id, _) => *id,
        }
    }

    /// Appends its bytes, without the type.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::U8(value) => to.push(*value),
            Self::I8(value) => to.extend(value.to_le_bytes()),
            Self::U16(value) => to.extend(value.to_le_bytes()),
            Self::I16(value) => to.extend(value.to_le_bytes()),
            Self::U32(value) => to.extend(value.to_le_bytes()),
            Self::I32(value) => to.extend(value.to_le_bytes()),
            Self::F32(value) => to.extend(value.to_le_bytes()),
            Self::Bool(value) => to.push(u8::from(*value)),
            Self::Bytes(bytes) => {
                to.extend((bytes.len() as u64).to_le_bytes());
                to.extend(bytes);
            }
            Self::Array(id, values) => {
                to.extend(id.to_le_bytes());
                to.extend((values.len() as u64).to_le_bytes());
                for value in values {
                    value.write(to);
                }
            }
            Self::U64(value) => to.extend(value.to_le_bytes()),
            Self::I64(value) => to.extend(value.to_le_bytes()),
            Self::F64(value) => to.extend(value.to_le_bytes()),
            Self::Raw(_, bytes) => to.extend(bytes),
        }
    }
}
