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

use safetensors::Dtype;

mod cast;
mod noise;
mod normal;
mod philox;

use cast::{Float, Tally};
pub use noise::Noise;

/// Elements that pass through the f32 buffer at a time: 4 KiB of it, which stay in the first cache.
const CHUNK: usize = 1024;

/// A tensor of this type is never cast or operated on, only copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedDtype {
    /// Integers, booleans, 8-bit floats and F64 have no arithmetic here.
    #[error("{0} tensors can only be copied; F16, BF16 and F32 can be cast, scaled or given noise")]
    Source(Dtype),
    /// Nothing is ever written in this type that was not of it before.
    #[error("tensors cannot be cast to {0}, only to F16, BF16 or F32")]
    Target(Dtype),
}

/// What is done to every element of one tensor on its way from the base to the checkpoint.
///
/// Operations add up in any order to what a plan means by them: scales multiply, zero wins over all
/// else, and noises are added last, in the order in which they came.
///
/// ```
/// # use dus::arithmetic::Transform;
/// # use safetensors::Dtype;
/// let halved = Transform::cast(Dtype::BF16, Dtype::F16)?.scaled(0.5);
/// let mut target = [0; 2];
/// halved.apply(&0x3f80_u16.to_le_bytes(), 0, &mut target); // 1.0
/// assert_eq!(u16::from_le_bytes(target), 0x3800); // 0.5
/// # Ok::<(), dus::arithmetic::UnsupportedDtype>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    from: Float,
    to: Float,
    zero: bool,
    scale: f64,
    noises: Vec<Noise>,
}

impl Transform {
    /// The cast from one of F16, BF16, F32 to another, or to itself, and no operation yet.
    pub fn cast(from: Dtype, to: Dtype) -> Result<Self, UnsupportedDtype> {
        let from = Float::of(from).ok_or(UnsupportedDtype::Source(from))?;
        let to = Float::of(to).ok_or(UnsupportedDtype::Target(to))?;
        Ok(Self { from, to, zero: false, scale: 1.0, noises: Vec::new() })
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

    /// Whether the target's bytes are the source's, so that no byte need pass through here.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        !self.zero && self.from == self.to && !self.computes()
    }

    /// Bytes of one element of the source.
    #[must_use]
    pub fn source_width(&self) -> usize {
        self.from.width()
    }

    /// Bytes of one element of the target.
    #[must_use]
    pub fn target_width(&self) -> usize {
        self.to.width()
    }

    /// The element that begins `offset` bytes into the source, and how many bytes of the target the
    /// `bytes` from there on become.
    #[must_use]
    pub fn block(&self, offset: u64, bytes: u64) -> (u64, usize) {
        let width = self.source_width() as u64;
        (offset / width, (bytes / width) as usize * self.target_width())
    }

    /// Transforms `source`, whose first element is number `first` of its tensor, into `target`.
    ///
    /// # Panics
    ///
    /// If `source` and `target` are not the same number of whole elements.
    pub fn apply(&self, source: &[u8], first: u64, target: &mut [u8]) -> CastReport {
        let num_elements = source.len() / self.source_width();
        assert_eq!(source.len(), num_elements * self.source_width(), "a piece of an element");
        assert_eq!(target.len(), num_elements * self.target_width(), "a target of another length");

        if self.zero {
            target.fill(0);
            return CastReport::default();
        }
        if self.is_copy() {
            target.copy_from_slice(source);
            return CastReport::default();
        }

        let mut report = CastReport::default();
        let mut buffer = [0.0; CHUNK];
        let mut first = first;
        let sources = source.chunks(CHUNK * self.source_width());
        let targets = target.chunks_mut(CHUNK * self.target_width());
        for (source, target) in sources.zip(targets) {
            if self.computes() {
                let values = &mut buffer[..source.len() / self.source_width()];
                cast::widen(self.from, source, values);
                report.overflowed += self.compute(values, first);
                report += cast::narrow(self.to, values, target).into();
                first += values.len() as u64;
            } else {
                report += cast::convert(self.from, self.to, source, target, &mut buffer).into();
            }
        }
        if self.from == self.to { CastReport { lossy: 0, flushed: 0, ..report } } else { report }
    }

    /// Whether the elements' values change before they are rounded.
    #[expect(clippy::float_cmp, reason = "only the factor 1 itself changes nothing")]
    fn computes(&self) -> bool {
        self.factor() != 1.0 || !self.noises.is_empty()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the factor is meant to be an f32")]
    fn factor(&self) -> f32 {
        self.scale as f32
    }

    /// Scales `values`, the first of which is element `first`, adds the noises, and counts the
    /// finite ones that became infinite in f32 already.
    fn compute(&self, values: &mut [f32], first: u64) -> u64 {
        let factor = self.factor();
        let mut overflowed = 0_u32;
        for value in &mut *values {
            overflowed += replace(value, *value * factor);
        }
        for noise in &self.noises {
            noise.for_each(first, values, |value, noise| {
                overflowed += replace(value, *value + noise);
            });
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
}

impl AddAssign for CastReport {
    fn add_assign(&mut self, other: Self) {
        self.lossy += other.lossy;
        self.flushed += other.flushed;
        self.overflowed += other.overflowed;
    }
}

impl From<Tally> for CastReport {
    fn from(tally: Tally) -> Self {
        Self {
            lossy: tally.lossy.into(),
            flushed: tally.flushed.into(),
            overflowed: tally.overflowed.into(),
        }
    }
}

/// The sum of the squares of a block of elements, of which a trailing piece of one is left out.
///
/// A tensor's RMS is the root of the sum over its blocks divided by its number of elements. Squares
/// are added in f64 in a fixed order, so the same blocks give the same sum on every machine; other
/// blocks may differ in the last bits. NaN and infinities are not left out.
pub fn sum_of_squares(dtype: Dtype, bytes: &[u8]) -> Result<f64, UnsupportedDtype> {
    let float = Float::of(dtype).ok_or(UnsupportedDtype::Source(dtype))?;
    let mut sums = [0.0_f64; 8]; // element i goes to sum i % 8: additions that need not wait
    let mut buffer = [0.0; CHUNK];
    for chunk in bytes.chunks(CHUNK * float.width()) {
        let values = &mut buffer[..chunk.len() / float.width()];
        cast::widen(float, chunk, values);
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
