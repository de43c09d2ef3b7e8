//! Causal attention of a chunk's queries (`kernels/flash.cu`).

use std::sync::Arc;

use crate::decode::Element;
use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Launch, Module, View};

static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flash.fatbin"));

/// As in `kernels/flash.cu`: threads and queries of a block, and keys of a tile.
const THREADS: u32 = 128;
const QUERIES: usize = 128;
const KEYS: usize = 64;

/// Attention for heads of one width.
#[derive(Debug)]
pub struct Flash {
    module: Module,
    kernel: Kernel,
    head_dim: usize,
    shared_bytes: usize,
}

/// What attention reads, and where it writes.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// (rows, `query_stride`): a row begins with its queries, (`num_heads`, `head_dim`).
    pub queries: View<'a>,
    /// Numbers from one row's queries to the next's.
    pub query_stride: usize,
    /// (`num_kv_heads`, `capacity`, `head_dim`).
    pub keys: View<'a>,
    /// The same.
    pub values: View<'a>,
    /// Positions that a head of keys has room for.
    pub capacity: usize,
    /// (rows, `num_heads`, `head_dim`).
    pub out: View<'a>,
    /// How many rows.
    pub num_rows: usize,
    /// The position of the first row. Keys and values up to the last row's are there.
    pub start: usize,
    /// How many positions a row sees, itself included; `None`: all before it.
    pub window: Option<usize>,
    /// Heads of queries.
    pub num_heads: usize,
    /// Heads of keys and values.
    pub num_kv_heads: usize,
}

/// `FlashParams` of `kernels/flash.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Params {
    queries: u64,
    keys: u64,
    values: u64,
    out: u64,
    rows: i32,
    start: i32,
    window: i32,
    capacity: i32,
    heads: i32,
    kv_heads: i32,
    query_stride: i32,
    scale: f32,
}

const _: () = assert!(size_of::<Params>() == 64);

impl Flash {
    /// The kernel for heads that are 32, 64, 96 or 128 wide.
    pub fn new(gpu: &Arc<Gpu>, element: Element, head_dim: usize) -> Result<Self> {
        let module = gpu.module(FATBIN)?;
        let kernel = module.kernel(&format!("flash_{}_{head_dim}", element.name()))?;
        module.allow_shared(kernel)?;
        let stages = if gpu.compute_capability()?.0 >= 8 { 2 } else { 1 };
        let row_bytes = if head_dim == 96 { 208 } else { head_dim * 2 };
        let shared_bytes = (QUERIES + stages * 2 * KEYS) * row_bytes;
        Ok(Self { module, kernel, head_dim, shared_bytes })
    }

    /// Attends, each row to what it sees.
    pub fn attend(&self, attention: &Attention<'_>) -> Result<()> {
        let Attention { num_rows, num_heads, num_kv_heads, capacity, query_stride, .. } =
            *attention;
        let width = num_heads * self.head_dim;
        assert!(num_heads.is_multiple_of(num_kv_heads), "{num_heads} of {num_kv_heads} heads");
        assert!(attention.start + num_rows <= capacity, "rows past the cache's {capacity}");
        assert!(query_stride >= width && query_stride.is_multiple_of(8), "rows of {query_stride}");
        let queries = num_rows.saturating_sub(1) * query_stride + width;
        let held = num_kv_heads * capacity * self.head_dim * 2;
        let mut params = Params {
            queries: attention.queries.of_bytes(queries * 2),
            keys: attention.keys.of_bytes(held),
            values: attention.values.of_bytes(held),
            out: attention.out.of_bytes(num_rows * width * 2),
            rows: num_rows as i32,
            start: attention.start as i32,
            window: attention.window.unwrap_or(0) as i32,
            capacity: capacity as i32,
            heads: num_heads as i32,
            kv_heads: num_kv_heads as i32,
            query_stride: query_stride as i32,
            scale: std::f32::consts::LOG2_E / (self.head_dim as f32).sqrt(),
        };
        let launch = Launch {
            blocks: [num_heads as u32, num_rows.div_ceil(QUERIES) as u32, 1],
            threads: THREADS,
            shared_bytes: self.shared_bytes as u32,
            is_cooperative: false,
        };
        #[expect(unsafe_code, reason = "kernels are launched by address")]
        // SAFETY: the parameters are the kernel's; what they point to is as large as it must be, and buffers
        // wait for the stream when they are let go of.
        unsafe {
            self.module.launch(self.kernel, launch, &mut params)
        }
    }
}
