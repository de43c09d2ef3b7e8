//! Casts and operations on the elements of a tensor: bytes in, bytes out.
//!
//! A [`Transform`] works on any block of whole elements and depends on nothing but the bytes and
//! where they stand in their tensor, so blocks may be of any size and go to any thread. Every
//! result is the same on every machine, bit for bit: the arithmetic is integers and `+ − × ÷ √` of
//! IEEE 754, and NaN that arithmetic makes is always the same NaN. It knows nothing of plans, names
//! or files.
//!
//! One element is widened to f32, multiplied by the scale, given its noise, and rounded once to the
//! type that is written. Whoever runs a plan without building it gets the same numbers by the same
//! four steps.

use std::ops::AddAssign;

use checkpoint::Encoding;

pub mod blocks;
mod cast;
mod noise;
mod normal;
mod philox;
mod rows;
mod stored;

use cast::Tally;
pub use noise::Noise;
pub use rows::{RowOrder, Rows};
use stored::Stored;

/// Elements that pass through the f32 buffer at a time: 4 KiB of it, which stay in the first cache.
///
/// Whole blocks of every quantised type fill it.
const CHUNK: usize = 1024;

/// A tensor of this type is never cast or operated on, only copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedEncoding {
    /// Integers, booleans, 8-bit floats and F64 have no arithmetic here, nor have some blocks.
    #[error(
        "{0} tensors can only be copied; F16, BF16, F32 and most quantised types of GGUF can be cast"
    )]
    Source(Encoding),
    /// Nothing is ever written in this type that was not of it before.
    #[error("tensors cannot be cast to {0}, only to F16, BF16, F32 or Q8_0")]
    Target(Encoding),
}

/// What is done to every element of one tensor on its way from the base to the checkpoint.
///
/// Operations add up in any order to what a plan means by them: scales multiply, zero wins over all
/// else, and noises are added last, in the order in which they came. Operations mean the values that
/// Hugging Face stores; where a GGUF file stores them with something added or in another order of
/// rows, that is undone before and done again after.
///
/// ```
/// # use dus::arithmetic::Transform;
/// # use safetensors::Dtype;
/// let halved = Transform::cast(Dtype::BF16.into(), Dtype::F16.into())?.scaled(0.5);
/// let mut target = [0; 2];
/// halved.apply(&0x3f80_u16.to_le_bytes(), 0, &mut target); // 1.0
/// assert_eq!(u16::from_le_bytes(target), 0x3800); // 0.5
/// # Ok::<(), dus::arithmetic::UnsupportedEncoding>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    from: Stored,
    to: Stored,
    zero: bool,
    scale: f64,
    noises: Vec<Noise>,
    rows: Option<Rows>,
    /// What is added to a stored value to have Hugging Face's, and to that to have the new one.
    added: [f32; 2],
}

impl Transform {
    /// The cast from an encoding that can be decoded to F16, BF16, F32 or `Q8_0`, or to itself, and no
    /// operation yet.
    pub fn cast(from: Encoding, to: Encoding) -> Result<Self, UnsupportedEncoding> {
        let source = Stored::readable(from).ok_or(UnsupportedEncoding::Source(from))?;
        let target = if from == to { Some(source) } else { Stored::writable(to) };
        Ok(Self {
            from: source,
            to: target.ok_or(UnsupportedEncoding::Target(to))?,
            zero: false,
            scale: 1.0,
            noises: Vec::new(),
            rows: None,
            added: [0.0; 2],
        })
    }

    /// Writes +0.0 for every element, whatever the source holds (NaN and infinities included).
    #[must_use]
    pub fn zeroed(self) -> Self {
        Self { zero: true, ..self }
    }

    /// Multiplies by `factor` too. The product of all factors, in f64, is rounded to f32 once, and
    /// the elements are multiplied by that in f32.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { scale: self.scale * factor, ..self }
    }

    /// Adds `noise` too.
    #[must_use]
    pub fn with_noise(mut self, noise: Noise) -> Self {
        self.noises.push(noise);
        self
    }

    /// Moves rows within their heads too.
    #[must_use]
    pub fn with_rows(self, rows: Rows) -> Self {
        Self { rows: Some(rows), ..self }
    }

    /// Adds `before` to what is stored to have the values that operations mean, and `after` to these
    /// to have what is written.
    #[must_use]
    pub fn with_added(self, before: f32, after: f32) -> Self {
        Self { added: [before, after], ..self }
    }

    /// Whether the target's bytes are the source's, so that no byte need pass through here.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        let moves_rows = self.rows.is_some_and(|rows| rows.from != rows.to);
        !self.zero && self.from == self.to && !self.computes() && !moves_rows
    }

    /// The elements that must pass through together: a block, or the rows that change places.
    fn unit_elements(&self) -> usize {
        let unit = self.from.unit_elements().max(self.to.unit_elements());
        self.rows.map_or(unit, |rows| rows.head_elements())
    }

    /// The bytes of the source to pass through at a time: up to `most` where that is possible.
    #[must_use]
    pub fn block_bytes(&self, most: u64) -> u64 {
        let unit = self.from.num_bytes(self.unit_elements()) as u64;
        (most / unit).max(1) * unit
    }

    /// The element that begins `offset` bytes into the source, and how many bytes of the target the
    /// `bytes` from there on become.
    #[must_use]
    pub fn block(&self, offset: u64, bytes: u64) -> (u64, usize) {
        let first = self.from.num_elements(offset as usize) as u64;
        (first, self.to.num_bytes(self.from.num_elements(bytes as usize)))
    }

    /// Where the target's element `first` begins, in bytes.
    #[must_use]
    pub fn target_offset(&self, first: u64) -> u64 {
        self.to.num_bytes(first as usize) as u64
    }

    /// Transforms `source`, whose first element is number `first` of its tensor, into `target`.
    ///
    /// # Panics
    ///
    /// If `source` and `target` are not the same number of whole elements, blocks or heads.
    pub fn apply(&self, source: &[u8], first: u64, target: &mut [u8]) -> CastReport {
        let num_elements = self.from.num_elements(source.len());
        assert_eq!(source.len(), self.from.num_bytes(num_elements), "a piece of an element");
        assert_eq!(target.len(), self.to.num_bytes(num_elements), "a target of another length");
        assert_eq!(num_elements % self.unit_elements(), 0, "a piece of a block or a head");

        if self.zero {
            return self.fill_with_zero(target);
        }
        let Some(rows) = self.rows.filter(|_| !self.is_copy()) else {
            return self.apply_in_order(source, first, target);
        };
        let mut report = CastReport::default();
        let (from_bytes, to_bytes) =
            (self.from.num_bytes(rows.row_elements), self.to.num_bytes(rows.row_elements));
        let heads = source.chunks(from_bytes * rows.head_rows);
        for (h, (source, target)) in
            heads.zip(target.chunks_mut(to_bytes * rows.head_rows)).enumerate()
        {
            let first = first + (h * rows.head_elements()) as u64;
            for (row, source) in source.chunks(from_bytes).enumerate() {
                let target = &mut target[rows.target(row) * to_bytes..][..to_bytes];
                let first = first + (rows.canonical(row) * rows.row_elements) as u64;
                report += self.apply_in_order(source, first, target);
            }
        }
        report
    }

    /// Writes what zero is stored as.
    fn fill_with_zero(&self, target: &mut [u8]) -> CastReport {
        let values = [self.added[1]; CHUNK];
        for target in target.chunks_mut(self.to.num_bytes(CHUNK)) {
            if self.added[1] == 0.0 {
                target.fill(0); // in every type that there is
            } else {
                self.to.narrow(&values[..self.to.num_elements(target.len())], target);
            }
        }
        CastReport::default()
    }

    /// Transforms elements that stay one behind the other.
    fn apply_in_order(&self, source: &[u8], first: u64, target: &mut [u8]) -> CastReport {
        if self.from == self.to && !self.computes() {
            target.copy_from_slice(source);
            return CastReport::default();
        }
        if let (Stored::Blocks(ty), Stored::Blocks(_)) = (self.from, self.to)
            && self.from == self.to
        {
            target.copy_from_slice(source);
            let inexact = blocks::scale(ty, target, self.scale);
            return CastReport { inexact, ..CastReport::default() };
        }
        let mut report = CastReport::default();
        let mut buffer = [0.0; CHUNK];
        let mut first = first;
        let sources = source.chunks(self.from.num_bytes(CHUNK));
        let targets = target.chunks_mut(self.to.num_bytes(CHUNK));
        for (source, target) in sources.zip(targets) {
            match (self.from, self.to) {
                (Stored::Float(from), Stored::Float(to)) if !self.computes() => {
                    report += cast::convert(from, to, source, target, &mut buffer).into();
                }
                _ => {
                    let values = &mut buffer[..self.from.num_elements(source.len())];
                    self.from.widen(source, values);
                    report.overflowed += self.compute(values, first);
                    report += self.to.narrow(values, target).into();
                    first += values.len() as u64;
                }
            }
        }
        if self.from == self.to { CastReport { lossy: 0, flushed: 0, ..report } } else { report }
    }

    /// Whether the elements' values change before they are rounded.
    #[expect(clippy::float_cmp, reason = "only the factor 1 and the summand 0 change nothing")]
    fn computes(&self) -> bool {
        self.factor() != 1.0 || !self.noises.is_empty() || self.added != [0.0; 2]
    }

    #[expect(clippy::cast_possible_truncation, reason = "the factor is meant to be an f32")]
    fn factor(&self) -> f32 {
        self.scale as f32
    }

    /// Scales `values`, the first of which is element `first`, adds the noises, and counts the
    /// finite ones that became infinite in f32 already.
    fn compute(&self, values: &mut [f32], first: u64) -> u64 {
        if !self.computes() {
            return 0;
        }
        let factor = self.factor();
        let [before, after] = self.added;
        let mut overflowed = 0_u32;
        // Not where there is nothing to add: −0 + 0 is another zero.
        if before != 0.0 {
            for value in &mut *values {
                *value += before;
            }
        }
        for value in &mut *values {
            overflowed += replace(value, *value * factor);
        }
        for noise in &self.noises {
            noise.for_each(first, values, |value, noise| {
                overflowed += replace(value, *value + noise);
            });
        }
        if after != 0.0 {
            for value in &mut *values {
                overflowed += replace(value, *value + after);
            }
        }
        u64::from(overflowed)
    }
}

/// Puts a computed number in the place of `value`, and returns 1 if it overflowed.
///
/// Which NaN an operation gives is left open by IEEE 754 and differs between processors, so any
/// becomes the one with only its quiet bit set.
fn replace(value: &mut f32, computed: f32) -> u32 {
    let overflowed = value.is_finite() && computed.is_infinite();
    *value = if computed.is_nan() { f32::from_bits(0x7fc0_0000) } else { computed };
    u32::from(overflowed)
}

/// What a cast did to the values: counts of elements, which add up over blocks.
///
/// An operation's own rounding is no loss: where source and target are of one type only
/// `overflowed` is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CastReport {
    /// Finite values that the target type can only hold rounded, `flushed` included, `overflowed`
    /// not. Measured on the f32 value, after all operations.
    pub lossy: u64,
    /// Values that were not zero and became zero by rounding; part of `lossy`.
    pub flushed: u64,
    /// Finite values of the source that became infinite, by an operation or by rounding.
    pub overflowed: u64,
    /// Quantised blocks that could not be scaled exactly, and were not.
    pub inexact: u64,
}

impl AddAssign for CastReport {
    fn add_assign(&mut self, other: Self) {
        self.lossy += other.lossy;
        self.flushed += other.flushed;
        self.overflowed += other.overflowed;
        self.inexact += other.inexact;
    }
}

impl From<Tally> for CastReport {
    fn from(tally: Tally) -> Self {
        Self {
            lossy: tally.lossy.into(),
            flushed: tally.flushed.into(),
            overflowed: tally.overflowed.into(),
            inexact: 0,
        }
    }
}

/// The sum of the squares of a block of elements, of which a trailing piece of one is left out.
///
/// `added` is added to each element first. A tensor's RMS is the root of the sum over its blocks
/// divided by its number of elements. Squares are added in f64 in a fixed order, so the same blocks
/// give the same sum on every machine; other blocks may differ in the last bits. NaN and infinities
/// are not left out.
pub fn sum_of_squares(
    encoding: Encoding,
    added: f32,
    bytes: &[u8],
) -> Result<f64, UnsupportedEncoding> {
    let stored = Stored::readable(encoding).ok_or(UnsupportedEncoding::Source(encoding))?;
    let mut sums = [0.0_f64; 8]; // element i goes to sum i % 8: additions that need not wait
    let mut buffer = [0.0; CHUNK];
    let bytes = &bytes[..stored.num_bytes(stored.num_elements(bytes.len()))];
    for chunk in bytes.chunks(stored.num_bytes(CHUNK)) {
        let values = &mut buffer[..stored.num_elements(chunk.len())];
        stored.widen(chunk, values);
        if added != 0.0 {
            for value in &mut *values {
                *value += added;
            }
        }
        let (groups, rest) = values.as_chunks::<8>();
        for group in groups {
            for (sum, &value) in sums.iter_mut().zip(group) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        for (sum, &value) in sums.iter_mut().zip(rest) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    Ok(sums.iter().sum())
}

#[cfg(test)]
mod tests;
