//! The values of GGUF's metadata: typed, little-endian, and read where they lie.

use std::fmt;

/// The type of a value, with its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// An unsigned byte.
    U8,
    /// A signed byte.
    I8,
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, signed.
    I16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    I32,
    /// Single precision.
    F32,
    /// A byte that is 0 or 1.
    Bool,
    /// A length in 64 bits, and bytes.
    String,
    /// A type, a length in 64 bits, and values.
    Array,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    I64,
    /// Double precision.
    F64,
}

/// All types by their numbers in a file.
const TYPES: [(ValueType, &str, usize); 13] = [
    (ValueType::U8, "u8", 1),
    (ValueType::I8, "i8", 1),
    (ValueType::U16, "u16", 2),
    (ValueType::I16, "i16", 2),
    (ValueType::U32, "u32", 4),
    (ValueType::I32, "i32", 4),
    (ValueType::F32, "f32", 4),
    (ValueType::Bool, "bool", 1),
    (ValueType::String, "string", 0),
    (ValueType::Array, "array", 0),
    (ValueType::U64, "u64", 8),
    (ValueType::I64, "i64", 8),
    (ValueType::F64, "f64", 8),
];

impl ValueType {
    /// The type with the number `id`.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.get(id as usize).map(|&(value_type, ..)| value_type)
    }

    /// Its number.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The length of a value in bytes, where all have the same.
    #[must_use]
    pub fn width(self) -> Option<usize> {
        Some(TYPES[self as usize].2).filter(|&width| width > 0)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TYPES[*self as usize].1)
    }
}

/// A value, read from the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A number in single precision.
    F32(f32),
    /// A number in double precision.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// A string, which should be UTF-8; tokens of old files are not always.
    String(&'a [u8]),
    /// Values of one type.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The value as an integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as an integer.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Unsigned(value) => value.try_into().ok(),
            Self::Signed(value) => Some(value),
            _ => None,
        }
    }

    /// The value as a number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The value as a truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value as text; `None` also where a string is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Self::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value as an array.
    #[must_use]
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// An array whose values are read as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) element: ValueType,
    pub(super) len: usize,
    /// The values, one behind the other; checked to be whole.
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of its values.
    #[must_use]
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// The number of its values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its values, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (element, mut cursor) = (self.element, Cursor::new(self.bytes));
        (0..self.len).map(move |_| cursor.value(element).expect("the array was read once before"))
    }

    /// The bytes of each value, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (element, bytes, mut cursor) = (self.element, self.bytes, Cursor::new(self.bytes));
        (0..self.len).map(move |_| {
            let begin = cursor.position;
            cursor.value(element).expect("the array was read once before");
            &bytes[begin..cursor.position]
        })
    }
}

/// What is wrong with the bytes of a header, before there is a path to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// The bytes end in the midst of something.
    EndsEarly,
    /// Something no file of these versions has.
    Wrong(String),
}

/// How deep arrays may lie in arrays; no file in use goes past one.
const MAX_NESTING: usize = 4;

/// A reader of the bytes of a header.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], Broken> {
        let rest = &self.bytes[self.position..];
        let length = usize::try_from(length).ok().filter(|&length| length <= rest.len());
        let length = length.ok_or(Broken::EndsEarly)?;
        self.position += length;
        Ok(&rest[..length])
    }

    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        Ok(self.take(N as u64)?.try_into().expect("as many bytes were taken"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Broken> {
        Ok(u32::from_le_bytes(self.array_of()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Broken> {
        Ok(u64::from_le_bytes(self.array_of()?))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.u64()?;
        self.take(length)
    }

    pub(super) fn value_type(&mut self) -> Result<ValueType, Broken> {
        let id = self.u32()?;
        ValueType::from_id(id)
            .ok_or_else(|| Broken::Wrong(format!("a value has the unknown type {id}")))
    }

    pub(super) fn value(&mut self, value_type: ValueType) -> Result<Value<'a>, Broken> {
        self.nested_value(value_type, 0)
    }

    fn nested_value(&mut self, value_type: ValueType, depth: usize) -> Result<Value<'a>, Broken> {
        Ok(match value_type {
            ValueType::U8 => Value::Unsigned(self.array_of::<1>()?[0].into()),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(self.array_of()?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(self.array_of()?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(self.array_of()?).into()),
            ValueType::U32 => Value::Unsigned(self.u32()?.into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(self.array_of()?).into()),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array_of()?)),
            ValueType::Bool => match self.array_of::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(Broken::Wrong(format!("a bool has the value {other}"))),
            },
            ValueType::String => Value::String(self.string()?),
            ValueType::Array => Value::Array(self.array(depth)?),
            ValueType::U64 => Value::Unsigned(self.u64()?),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(self.array_of()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array_of()?)),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array<'a>, Broken> {
        if depth == MAX_NESTING {
            return Err(Broken::Wrong("arrays are nested too deep".to_owned()));
        }
        let element = self.value_type()?;
        let len = self.u64()?;
        let begin = self.position;
        match element.width() {
            Some(width) => {
                let bytes = len.checked_mul(width as u64).ok_or(Broken::EndsEarly)?;
                let bytes = self.take(bytes)?;
                if element == ValueType::Bool && bytes.iter().any(|&byte| byte > 1) {
                    return Err(Broken::Wrong("a bool in an array is neither 0 nor 1".to_owned()));
                }
            }
            None => {
                for _ in 0..len {
                    self.nested_value(element, depth + 1)?;
                }
            }
        }
        // Every value takes a byte at least, so as many fit into memory as were just read.
        Ok(Array { element, len: len as usize, bytes: &self.bytes[begin..self.position] })
    }
}

/// A Rust value that can be written into metadata.
pub trait ToValue {
    /// Its type in the file.
    const TYPE: ValueType;

    /// Appends its bytes, without the type.
    fn write(&self, bytes: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:ty => $value_type:ident),*) => {
        $(impl ToValue for $number {
            const TYPE: ValueType = ValueType::$value_type;

            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }
        })*
    };
}

numbers!(u8 => U8, i8 => I8, u32 => U32, i32 => I32, u64 => U64, f32 => F32);

impl ToValue for bool {
    const TYPE: ValueType = ValueType::Bool;

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push((*self).into());
    }
}

impl ToValue for str {
    const TYPE: ValueType = ValueType::String;

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend((self.len() as u64).to_le_bytes());
        bytes.extend(self.as_bytes());
    }
}

impl ToValue for String {
    const TYPE: ValueType = ValueType::String;

    fn write(&self, bytes: &mut Vec<u8>) {
        self.as_str().write(bytes);
    }
}

impl<T: ToValue> ToValue for [T] {
    const TYPE: ValueType = ValueType::Array;

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(T::TYPE.id().to_le_bytes());
        bytes.extend((self.len() as u64).to_le_bytes());
        for value in self {
            value.write(bytes);
        }
    }
}

impl<T: ToValue> ToValue for Vec<T> {
    const TYPE: ValueType = ValueType::Array;

    fn write(&self, bytes: &mut Vec<u8>) {
        self.as_slice().write(bytes);
    }
}
