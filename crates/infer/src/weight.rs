//! Matrices that activations are multiplied by, however they are stored.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::dot::FewRows;
use crate::many_rows::ManyRows;
use crate::quantised::QuantisedMatrix;

/// Rows of activations up to which [`FewRows`] is used: it is faster than a general product there.
const FEW: usize = 8;

/// A matrix of (outputs, inputs). A clone is the same memory.
///
/// The decoder multiplies by it and looks up its rows, and asks nothing else: another form of
/// storage is another variant here.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Numbers of the type of the arithmetic.
    Dense(Tensor),
    /// Numbers of 16 bits in an arithmetic of f32, on the CPU: they are widened as they are read, and
    /// give the bits that they would give in f32.
    Narrow(Tensor),
    /// Blocks of small integers with scales.
    Quantised(QuantisedMatrix),
}

impl Weight {
    /// `x · Wᵀ`: (n, inputs) to (n, outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) if matches!(matrix.device(), Device::Cpu) => {
                // Sums are f32 whatever the type is, and the result is rounded.
                product(&x.to_dtype(DType::F32)?, matrix)?.to_dtype(matrix.dtype())
            }
            Self::Dense(matrix) => x.matmul(&matrix.t()?),
            Self::Narrow(matrix) => product(x, matrix),
            Self::Quantised(matrix) => matrix.forward(x),
        }
    }

    /// Whether a product can be finite where activations are not: where they are rounded to 8 bits, among
    /// which there is no NaN.
    pub(crate) fn loses_nan(&self) -> bool {
        matches!(self, Self::Quantised(matrix) if matrix.loses_nan())
    }

    /// The rows with the numbers in `indices`, (n) to (n, inputs).
    pub fn rows(&self, indices: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => matrix.index_select(indices, 0),
            Self::Narrow(matrix) => matrix.index_select(indices, 0)?.to_dtype(DType::F32),
            Self::Quantised(matrix) => matrix.rows(indices),
        }
    }

    /// The bytes that it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Dense(matrix) | Self::Narrow(matrix) => {
                (matrix.elem_count() * matrix.dtype().size_in_bytes()) as u64
            }
            Self::Quantised(matrix) => matrix.bytes(),
        }
    }
}

/// `x · Wᵀ` on the CPU: x of f32, W of any type, and sums of f32.
fn product(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    if x.dims()[0] <= FEW {
        x.contiguous()?.apply_op2_no_bwd(matrix, &FewRows)
    } else if matrix.dtype() == DType::F32 {
        x.matmul(&matrix.t()?)
    } else {
        x.contiguous()?.apply_op2_no_bwd(matrix, &ManyRows)
    }
}

/// A projection: a matrix, and a bias where there is one.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The matrix, (outputs, inputs).
    pub weight: Weight,
    /// The bias, (outputs).
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `x · Wᵀ + b`: (n, inputs) to (n, outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// What each of `projections` makes of `x`, (n, inputs).
///
/// On the CPU, a few rows go through all of them at once: threads that are done with one go on with
/// the next, and wait for each other once.
pub(crate) fn forward_all<const N: usize>(
    projections: [&Linear; N],
    x: &Tensor,
) -> Result<[Tensor; N]> {
    let products: Result<Vec<Tensor>> = if matches!(x.device(), Device::Cpu) && x.dims()[0] <= FEW {
        projections.into_par_iter().map(|projection| projection.forward(x)).collect()
    } else {
        projections.into_iter().map(|projection| projection.forward(x)).collect()
    };
    products.map(|all| all.try_into().expect("as many products as projections"))
}
