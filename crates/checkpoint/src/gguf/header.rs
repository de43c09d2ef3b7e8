//! The header of a GGUF file: metadata and the places of tensors, read and checked once, or written.
//!
//! A file is a magic word, a version, two counts, the metadata, a record for each tensor, zeros up
//! to the alignment, and the tensors' bytes, each filled up to the alignment. This module never
//! touches the tensors' bytes.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::error::GgufError;
use super::ggml_type::GgmlType;
use super::metadata::{Backing, Metadata};
use super::value::{Broken, Cursor, ToValue};
use crate::error::{Error, Result};
use crate::header::{BLOCK_BYTES, refuse_stand_in_text};

/// How a file begins.
const MAGIC: &[u8; 4] = b"GGUF";

/// The version that is written.
const VERSION: u32 = 3;

/// The key of the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The alignment where the key is missing.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The largest alignment that is read.
const MAX_ALIGNMENT: u64 = 1 << 16;

/// The key whose value does nothing but move the tensors to where blocks can be shared.
pub const FILLER_KEY: &str = "dus.filler";

/// The most dimensions of a tensor.
const MAX_DIMS: u32 = 4;

/// The header of a file.
#[derive(Debug, Clone)]
pub struct Header {
    /// The metadata.
    pub metadata: Metadata,
    /// What the beginnings of tensors are multiples of.
    pub alignment: u64,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<HeaderTensor>,
}

/// A tensor as a file's header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub ggml_type: GgmlType,
    /// Its shape as everywhere but in ggml: the rows' length last.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub range: Range<u64>,
}

impl Header {
    /// Maps the file at `path` and reads its header.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_with(path, false)
    }

    /// The same of a file that may end before its tensors do.
    pub fn read_cut_short(path: &Path) -> Result<Self> {
        Self::read_with(path, true)
    }

    fn read_with(path: &Path, may_be_cut_short: bool) -> Result<Self> {
        let (backing, file_bytes) = map(path)?;
        let (metadata, num_tensors, mut cursor) = parse_metadata(path, &backing, file_bytes)?;
        let failed = |source| Error::Gguf { path: path.to_owned(), source };
        let alignment = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(failed(GgufError::Alignment { found: alignment }));
        }
        let mut infos = Vec::new();
        for i in 0..num_tensors {
            infos.push(Info::read(&mut cursor, i).map_err(|e| broken(path, file_bytes, e))?);
        }
        let data_start = (cursor.position as u64).next_multiple_of(alignment);
        let end = if may_be_cut_short { u64::MAX } else { file_bytes };
        let tensors = infos.into_iter().map(|info| info.checked(alignment, data_start, end));
        let mut tensors: Vec<HeaderTensor> = tensors.collect::<Result<_, _>>().map_err(failed)?;
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        refuse_collisions(&tensors).map_err(failed)?;
        Ok(Self { metadata, alignment, tensors })
    }

    /// Reads the metadata alone, also of a file whose tensors are cut off.
    pub fn read_metadata(path: &Path) -> Result<Metadata> {
        let (backing, file_bytes) = map(path)?;
        parse_metadata(path, &backing, file_bytes).map(|(metadata, ..)| metadata)
    }
}

/// Maps the file at `path`; its length is returned too.
fn map(path: &Path) -> Result<(Backing, u64)> {
    // Looked at before it is opened: a pipe would be waited for.
    let is_other = path.metadata().is_ok_and(|metadata| !metadata.is_file());
    if is_other {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(|e| Error::io(path, "opened", e))?;
    let metadata = file.metadata().map_err(|e| Error::io(path, "read", e))?;
    if metadata.len() == 0 {
        // An empty file cannot be mapped.
        return Ok((Backing::Read(Arc::new([])), 0));
    }
    #[expect(unsafe_code, reason = "a vocabulary is read where it lies, not copied")]
    // SAFETY: the map is only read, and only within its length. Should another process cut
    // the file short meanwhile, the read ends this process, as it ends any that maps files.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "mapped", e))?;
    Ok((Backing::Mapped(Arc::new(map)), metadata.len()))
}

/// The metadata, the number of tensors, and a cursor at the first tensor's record.
fn parse_metadata<'a>(
    path: &Path,
    backing: &'a Backing,
    file_bytes: u64,
) -> Result<(Metadata, u64, Cursor<'a>)> {
    let bytes = backing.bytes();
    refuse_stand_in_text(path, &bytes[..bytes.len().min(256)])?;
    let failed = |source| Error::Gguf { path: path.to_owned(), source };
    let broken = |e| broken(path, file_bytes, e);
    let mut cursor = Cursor::new(bytes);
    if cursor.take(4) != Ok(MAGIC) {
        return Err(failed(GgufError::Magic));
    }
    match cursor.u32().map_err(broken)? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err(failed(GgufError::BigEndian));
        }
        version => return Err(failed(GgufError::Version { version })),
    }
    let num_tensors = cursor.u64().map_err(broken)?;
    let num_keys = cursor.u64().map_err(broken)?;
    let metadata = Metadata::read(path, backing, &mut cursor, num_keys).map_err(broken)?;
    Ok((metadata, num_tensors, cursor))
}

fn broken(path: &Path, file_bytes: u64, broken: Broken) -> Error {
    let source = match broken {
        Broken::EndsEarly => GgufError::EndsEarly { bytes: file_bytes },
        Broken::Wrong(what) => GgufError::Header { what },
    };
    Error::Gguf { path: path.to_owned(), source }
}

/// The record of a tensor.
struct Info {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor, i: u64) -> Result<Self, Broken> {
        let name = std::str::from_utf8(cursor.string()?)
            .map_err(|_| Broken::Wrong(format!("the name of tensor {i} is not UTF-8")))?
            .to_owned();
        let num_dims = cursor.u32()?;
        if num_dims > MAX_DIMS {
            return Err(Broken::Wrong(format!("`{name}` has {num_dims} dimensions")));
        }
        let dims = (0..num_dims).map(|_| cursor.u64()).collect::<Result<_, _>>()?;
        Ok(Self { name, dims, type_id: cursor.u32()?, offset: cursor.u64()? })
    }

    fn checked(
        self,
        alignment: u64,
        data_start: u64,
        file_bytes: u64,
    ) -> Result<HeaderTensor, GgufError> {
        let Self { name: tensor, dims, type_id: id, offset } = self;
        let Some(ggml_type) = GgmlType::from_id(id) else {
            return Err(GgufError::TensorType { tensor, id });
        };
        let row = dims.first().copied().unwrap_or(1);
        let num_elements = dims.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim));
        let bytes = num_elements.and_then(|n| ggml_type.num_bytes(n));
        // Blocks never go over the end of a row.
        let Some(bytes) = bytes.filter(|_| row % ggml_type.block_elements() as u64 == 0) else {
            return Err(GgufError::Shape { tensor, ggml_type, shape: dims });
        };
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Offset { tensor, offset, alignment });
        }
        let end = u128::from(data_start) + u128::from(offset) + u128::from(bytes);
        if end > u128::from(file_bytes) {
            return Err(GgufError::PastEnd { tensor, end, bytes: file_bytes });
        }
        let range = data_start + offset..data_start + offset + bytes;
        let shape = dims.iter().rev().map(|&dim| dim as usize).collect();
        Ok(HeaderTensor { name: tensor, ggml_type, shape, range })
    }
}

/// Refuses names that stand twice, and tensors that share bytes.
fn refuse_collisions(tensors: &[HeaderTensor]) -> Result<(), GgufError> {
    let mut names = HashSet::new();
    if let Some(tensor) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(GgufError::TensorTwice { tensor: tensor.name.clone() });
    }
    for pair in tensors.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            return Err(GgufError::Overlap { first, second });
        }
    }
    Ok(())
}

/// The header of a file, and where its tensors begin.
///
/// `settings` are small vectors of f32 that come first and are part of what is returned. `tensors`
/// come in the order of their bytes, and each begins at the first multiple of `alignment` behind the
/// one before it; the file ends at such a multiple too. Their bytes begin at an offset which is
/// `residue` modulo [`BLOCK_BYTES`]: loaders allow no bytes between header and tensors, so a key
/// without a meaning fills the header.
pub fn encode<'a>(
    metadata: &Metadata,
    settings: &[(&str, &[f32])],
    tensors: impl IntoIterator<Item = (&'a str, GgmlType, &'a [usize])>,
    alignment: u64,
    residue: u64,
) -> Vec<u8> {
    let mut infos = Infos { bytes: Vec::new(), count: 0, end: 0, alignment };
    let mut settings_bytes: Vec<u8> = Vec::new();
    for (name, values) in settings {
        infos.push(name, GgmlType::F32, &[values.len()]);
        settings_bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        settings_bytes.resize(settings_bytes.len().next_multiple_of(alignment as usize), 0);
    }
    for (name, ggml_type, shape) in tensors {
        infos.push(name, ggml_type, shape);
    }
    let mut metadata = metadata.clone();
    let head = |metadata: &Metadata| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(infos.count.to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        metadata.write(&mut bytes);
        bytes.extend(&infos.bytes);
        bytes
    };
    metadata.remove(|key| key == FILLER_KEY);
    let residue = residue + BLOCK_BYTES - settings_bytes.len() as u64 % BLOCK_BYTES;
    let fits = |bytes: &[u8]| {
        (bytes.len() as u64).next_multiple_of(alignment) % BLOCK_BYTES == residue % BLOCK_BYTES
    };
    let mut bytes = head(&metadata);
    if !fits(&bytes) {
        metadata.set(FILLER_KEY, "");
        bytes = head(&metadata);
        let missing = (residue + BLOCK_BYTES - bytes.len() as u64 % BLOCK_BYTES) % BLOCK_BYTES;
        metadata.set(FILLER_KEY, "-".repeat(missing as usize).as_str());
        bytes = head(&metadata);
    }
    bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
    bytes.extend(settings_bytes);
    bytes
}

/// The records of tensors, one behind the other.
struct Infos {
    bytes: Vec<u8>,
    count: u64,
    /// Where the next tensor begins, counted from the end of the header.
    end: u64,
    alignment: u64,
}

impl Infos {
    fn push(&mut self, name: &str, ggml_type: GgmlType, shape: &[usize]) {
        name.write(&mut self.bytes);
        self.bytes.extend((shape.len() as u32).to_le_bytes());
        for &dim in shape.iter().rev() {
            self.bytes.extend((dim as u64).to_le_bytes());
        }
        self.bytes.extend(ggml_type.id().to_le_bytes());
        self.bytes.extend(self.end.to_le_bytes());
        let num_elements = shape.iter().map(|&dim| dim as u64).product();
        let bytes = ggml_type.num_bytes(num_elements).expect("the shape was checked");
        self.end = (self.end + bytes).next_multiple_of(self.alignment);
        self.count += 1;
    }
}
