//! Tensors as numbers, by the `half` crate.

use half::{bf16, f16};
use testkit::{Dtype, Tensor};

/// The elements of a tensor of BF16, F16 or F32, which f32 holds exactly.
#[track_caller]
pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    let halves = || tensor.bytes.as_chunks::<2>().0.iter().map(|it| u16::from_le_bytes(*it));
    match tensor.dtype {
        Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        Dtype::F32 => {
            tensor.bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
        }
        dtype => panic!("no numbers are read from {dtype}"),
    }
}

/// A tensor of `dtype` whose elements are `numbers`, rounded to the nearest, ties to even.
#[track_caller]
pub(crate) fn tensor(dtype: Dtype, shape: &[usize], numbers: &[f32]) -> Tensor {
    let bytes: Vec<u8> = match dtype {
        Dtype::BF16 => numbers.iter().flat_map(|&it| bf16::from_f32(it).to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|&it| f16::from_f32(it).to_le_bytes()).collect(),
        Dtype::F32 => numbers.iter().flat_map(|&it| it.to_le_bytes()).collect(),
        dtype => panic!("no numbers are written as {dtype}"),
    };
    Tensor::new(dtype, shape, bytes)
}

/// `tensor` with each number times `factor`, in f32, rounded to the tensor's type.
#[track_caller]
pub(crate) fn scaled(from: &Tensor, factor: f32) -> Tensor {
    let numbers: Vec<f32> = numbers(from).into_iter().map(|number| number * factor).collect();
    tensor(from.dtype, &from.shape, &numbers)
}

/// `tensor` with true zeros: no bit is set.
pub(crate) fn zeroed(from: &Tensor) -> Tensor {
    Tensor::new(from.dtype, &from.shape, vec![0; from.bytes.len()])
}
