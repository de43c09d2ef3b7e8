//! Products of many rows with a matrix of weights, by cuBLASLt.

#![expect(unsafe_code, reason = "the library's functions have no other form")]

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::sys::{self, cublasStatus_t};
use half::{bf16, f16};

use crate::decode::Element;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, View};

/// What the library may use beside the operands.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Shapes whose plans are kept: the rows of a prompt's last chunk may be any number.
const MAX_PLANS: usize = 256;

/// What a product does with its sums, which are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sums {
    /// They are rounded to 16 bits.
    Rounded,
    /// They are stored.
    Stored,
    /// They are added to what is there, in f32.
    Added,
}

/// The sizes of a product: (rows, inputs) times the transpose of (outputs, inputs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say all")]
pub struct Sizes {
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
}

/// Multiplies rows of 16 bits by matrices of 16 bits.
#[derive(Debug)]
pub struct Gemm {
    gpu: Arc<Gpu>,
    element: Element,
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
    plans: HashMap<(Sizes, Sums), Plan>,
}

// SAFETY: the handle may be used by any thread that has made the card its own, one at a time.
unsafe impl Send for Gemm {}
// SAFETY: what is not `&mut self` does not use the handle.
unsafe impl Sync for Gemm {}

/// Calls a function of the library's, and makes an error of what is no success.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: arguments are what the library gave, and memory that lives through the call.
        check(stringify!($function), unsafe { sys::$function($($argument),*) })
    };
}

fn check(call: &'static str, status: cublasStatus_t) -> Result<()> {
    if status == cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: the library gives a text of its own, or none.
    let name = unsafe { sys::cublasLtGetStatusName(status) };
    let name = if name.is_null() {
        format!("{status:?}")
    } else {
        // SAFETY: as above; it ends with a zero.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    };
    Err(Error::Driver { call, name })
}

/// [`Error::NoLibrary`] where cuBLASLt is not installed: the driver does not bring it.
pub fn find_library() -> Result<()> {
    // SAFETY: a library is looked for.
    if unsafe { sys::is_culib_present() } {
        Ok(())
    } else {
        Err(Error::NoLibrary { library: "libcublasLt" })
    }
}

impl Gemm {
    /// Opens the library; [`Error::NoLibrary`] where there is none.
    pub fn new(gpu: &Arc<Gpu>, element: Element) -> Result<Self> {
        find_library()?;
        let workspace = gpu.alloc(WORKSPACE_BYTES)?;
        let mut handle = ptr::null_mut();
        gpu.enter()?;
        call!(cublasLtCreate(&raw mut handle))?;
        Ok(Self { gpu: Arc::clone(gpu), element, handle, workspace, plans: HashMap::new() })
    }

    /// Multiplies `x`, (rows, inputs), by the transpose of `matrix`, (outputs, inputs), into `out`,
    /// (rows, outputs): of 16 bits if `result` is [`Sums::Rounded`], else f32.
    pub fn multiply(
        &mut self,
        x: View<'_>,
        matrix: View<'_>,
        sizes: Sizes,
        result: Sums,
        out: View<'_>,
    ) -> Result<()> {
        let Sizes { rows, outputs, inputs } = sizes;
        let out_bytes = if result == Sums::Rounded { 2 } else { 4 };
        let x = x.of_bytes(rows * inputs * 2) as *const c_void;
        let matrix = matrix.of_bytes(outputs * inputs * 2) as *const c_void;
        let out = out.of_bytes(rows * outputs * out_bytes) as *mut c_void;
        self.gpu.enter()?;
        if !self.plans.contains_key(&(sizes, result)) {
            if self.plans.len() >= MAX_PLANS {
                self.plans.clear();
            }
            let plan = Plan::new(self.handle, self.element, sizes, result)?;
            self.plans.insert((sizes, result), plan);
        }
        let plan = &self.plans[&(sizes, result)];
        let (one, beta) = (1_f32, if result == Sums::Added { 1_f32 } else { 0.0 });
        call!(cublasLtMatmul(
            self.handle,
            plan.product,
            (&raw const one).cast(),
            matrix,
            plan.matrix,
            x,
            plan.x,
            (&raw const beta).cast(),
            out,
            plan.out,
            out,
            plan.out,
            &raw const plan.algorithm,
            self.workspace.address() as *mut c_void,
            WORKSPACE_BYTES,
            self.gpu.stream().cast(),
        ))
    }
}

/// The operations (two a multiplication and addition) that a second brings of a product of 8,192 rows of
/// 8,192 with a matrix as large, of normal numbers of `element` with sums in f32: what prompts are compared
/// with, as steps are with [`read_bytes_per_second`](crate::bandwidth::read_bytes_per_second).
///
/// The best of some measurements; 384 MiB of the card's memory are needed.
pub fn flops_per_second(gpu: &Arc<Gpu>, element: Element) -> Result<f64> {
    /// Products of a measurement: a single one would be measured while the card's clock rises.
    const PRODUCTS: usize = 10;
    const MEASUREMENTS: usize = 5;
    const SIZE: usize = 8192;
    let sizes = Sizes { rows: SIZE, outputs: SIZE, inputs: SIZE };
    let operand = |seed| -> Result<Buffer> {
        // A prime number of them, so that rows are not alike.
        let numbers = normal_bits(element, 1_000_003, seed);
        let mut all = numbers.repeat((SIZE * SIZE).div_ceil(1_000_003));
        all.truncate(SIZE * SIZE);
        gpu.upload(&all)
    };
    let (x, matrix, out) = (operand(1)?, operand(2)?, gpu.alloc(SIZE * SIZE * 2)?);
    let mut gemm = Gemm::new(gpu, element)?;
    let mut best = 0_f64;
    for _ in 0..=MEASUREMENTS {
        let seconds = gpu.seconds(|| {
            (0..PRODUCTS).try_for_each(|_| {
                gemm.multiply(x.at(0), matrix.at(0), sizes, Sums::Rounded, out.at(0))
            })
        })?;
        best = best.max((PRODUCTS * 2 * SIZE.pow(3)) as f64 / seconds);
    }
    Ok(best)
}

/// Numbers of mean 0 and variance 1, nearly normal: how much power a product takes, and so how fast it is,
/// goes by its numbers.
fn normal_bits(element: Element, count: u32, seed: u32) -> Vec<f16> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut number = || (0..3).map(|_| uniform()).sum::<f32>() * 2.0 - 3.0;
    (0..count)
        .map(|_| match element {
            Element::F16 => f16::from_f32(number()),
            // Bits are bits.
            Element::BF16 => f16::from_bits(bf16::from_f32(number()).to_bits()),
        })
        .collect()
}

impl Drop for Gemm {
    fn drop(&mut self) {
        // Nothing can be done where this fails.
        let _ = self.gpu.enter();
        let _ = self.gpu.synchronize();
        self.plans.clear();
        let _ = call!(cublasLtDestroy(self.handle));
    }
}

/// A product as the library describes it: there columns are contiguous, so all is turned over, and
/// outᵀ = matrix · xᵀ.
#[derive(Debug)]
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    matrix: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(
        handle: sys::cublasLtHandle_t,
        element: Element,
        sizes: Sizes,
        result: Sums,
    ) -> Result<Self> {
        use sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        use sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        use sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};

        let Sizes { rows, outputs, inputs } = sizes;
        let (rows, outputs, inputs) = (rows as u64, outputs as u64, inputs as u64);
        let sixteen = if element == Element::F16 { CUDA_R_16F } else { CUDA_R_16BF };
        let out_type = if result == Sums::Rounded { sixteen } else { CUDA_R_32F };
        // What was made is let go of when a later call fails.
        let mut plan = Self {
            product: ptr::null_mut(),
            matrix: ptr::null_mut(),
            x: ptr::null_mut(),
            out: ptr::null_mut(),
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        call!(cublasLtMatmulDescCreate(&raw mut plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F))?;
        let (transposed, workspace_bytes) = (1_i32, WORKSPACE_BYTES); // CUBLAS_OP_T
        call!(cublasLtMatmulDescSetAttribute(
            plan.product,
            CUBLASLT_MATMUL_DESC_TRANSA,
            (&raw const transposed).cast(),
            size_of_val(&transposed),
        ))?;
        let layouts = [
            (&raw mut plan.matrix, sixteen, inputs, outputs),
            (&raw mut plan.x, sixteen, inputs, rows),
            (&raw mut plan.out, out_type, outputs, rows),
        ];
        for (layout, of, height, width) in layouts {
            let stride = i64::try_from(height).unwrap_or(i64::MAX);
            call!(cublasLtMatrixLayoutCreate(layout, of, height, width, stride))?;
        }
        let mut preference = ptr::null_mut();
        call!(cublasLtMatmulPreferenceCreate(&raw mut preference))?;
        let chosen = call!(cublasLtMatmulPreferenceSetAttribute(
            preference,
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const workspace_bytes).cast(),
            size_of::<usize>(),
        ))
        .and_then(|()| plan.choose(handle, preference));
        let _ = call!(cublasLtMatmulPreferenceDestroy(preference));
        chosen?;
        Ok(plan)
    }

    /// Takes what the library thinks fastest.
    fn choose(
        &mut self,
        handle: sys::cublasLtHandle_t,
        preference: sys::cublasLtMatmulPreference_t,
    ) -> Result<()> {
        // SAFETY: a struct of numbers.
        let mut best: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let mut count = 0;
        call!(cublasLtMatmulAlgoGetHeuristic(
            handle,
            self.product,
            self.matrix,
            self.x,
            self.out,
            self.out,
            preference,
            1,
            &raw mut best,
            &raw mut count,
        ))?;
        if count == 0 {
            let name = "no algorithm has this shape".to_owned();
            return Err(Error::Driver { call: "cublasLtMatmulAlgoGetHeuristic", name });
        }
        self.algorithm = best.algo;
        Ok(())
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if !self.product.is_null() {
            let _ = call!(cublasLtMatmulDescDestroy(self.product));
        }
        for layout in [self.matrix, self.x, self.out] {
            if !layout.is_null() {
                let _ = call!(cublasLtMatrixLayoutDestroy(layout));
            }
        }
    }
}
