//! What lies between the products of a prompt's rows (`kernels/rows.cu`).

use std::sync::Arc;

use crate::decode::{Element, RawMatrix};
use crate::error::Result;
use crate::forms::Matrix;
use crate::gpu::{Buffer, Gpu, Kernel, Launch, Module, View};

static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rows.fatbin"));

/// Threads of a block: as in `kernels/rows.cu`.
const THREADS: usize = 256;
/// Heads that a block has.
const HEADS: usize = THREADS / 32;
/// The most blocks in a grid's second direction.
const MAX_BLOCKS: usize = 65_535;

/// The kernels for one type of numbers.
#[derive(Debug)]
pub struct Rows {
    gpu: Arc<Gpu>,
    module: Module,
    embed: Kernel,
    unpack: Kernel,
    norm: Kernel,
    turn: Kernel,
    gate: Kernel,
    add_bias: Kernel,
}

/// Projections, and the cache that keys and values go to.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Queries, keys and values: (rows, (`num_heads` + 2 · `num_kv_heads`) · `head_dim`).
    pub qkv: View<'a>,
    /// What is added to each row first.
    pub bias: Option<&'a Buffer>,
    /// The norms of each head's queries and keys, (`head_dim`).
    pub norms: Option<(&'a Buffer, &'a Buffer)>,
    /// Of the norms.
    pub eps: f32,
    /// What queries are multiplied by.
    pub scale: f32,
    /// The angles' cosines and sines, (positions, `head_dim / 2`).
    pub angles: &'a [Buffer; 2],
    /// (`num_kv_heads`, `capacity`, `head_dim`).
    pub keys: View<'a>,
    /// The same.
    pub values: View<'a>,
    /// Positions that a head of keys has room for.
    pub capacity: usize,
    /// How many rows.
    pub num_rows: usize,
    /// The position of the first row.
    pub start: usize,
    /// Heads of queries.
    pub num_heads: usize,
    /// Heads of keys and values.
    pub num_kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

#[repr(C)]
struct EmbedParams {
    matrix: RawMatrix,
    tokens: u64,
    x: u64,
    rows: i32,
    hidden: i32,
}

#[repr(C)]
struct UnpackParams {
    matrix: RawMatrix,
    out: u64,
    rows: i32,
    inputs: i32,
}

#[repr(C)]
struct NormParams {
    x: u64,
    weight: u64,
    out: u64,
    hidden: i32,
    eps: f32,
}

#[repr(C)]
struct TurnParams {
    qkv: u64,
    bias: u64,
    q_norm: u64,
    k_norm: u64,
    cos: u64,
    sin: u64,
    keys: u64,
    values: u64,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    capacity: i32,
    start: i32,
    eps: f32,
    scale: f32,
    unused: i32,
}

#[repr(C)]
struct GateParams {
    gate_up: u64,
    bias: u64,
    out: u64,
    intermediate: i32,
    unused: i32,
}

#[repr(C)]
struct BiasParams {
    x: u64,
    bias: u64,
    columns: i32,
    unused: i32,
}

// The kernels' own layouts: `kernels/rows.cu` asserts the same.
const _: () = assert!(size_of::<EmbedParams>() == 40 && size_of::<UnpackParams>() == 32);
const _: () = assert!(size_of::<NormParams>() == 32 && size_of::<TurnParams>() == 96);
const _: () = assert!(size_of::<GateParams>() == 32 && size_of::<BiasParams>() == 24);

impl Rows {
    /// The kernels for numbers of `element`.
    pub fn new(gpu: &Arc<Gpu>, element: Element) -> Result<Self> {
        let module = gpu.module(FATBIN)?;
        let kernel = |name: &str| module.kernel(&format!("{name}_{}", element.name()));
        Ok(Self {
            embed: kernel("embed")?,
            unpack: kernel("unpack")?,
            norm: kernel("norm")?,
            turn: kernel("turn")?,
            gate: kernel("gate")?,
            add_bias: module.kernel("add_bias")?,
            gpu: Arc::clone(gpu),
            module,
        })
    }

    /// Writes the rows of `matrix` that `tokens` name to `x`, (tokens, inputs) in f32.
    pub fn embed(&self, matrix: &Matrix, tokens: &[u32], x: View<'_>) -> Result<()> {
        let hidden = matrix.inputs;
        let unknown = tokens.iter().find(|&&token| token as usize >= matrix.outputs);
        assert!(unknown.is_none(), "there is no token {}", unknown.unwrap_or(&0));
        let x = x.of_bytes(tokens.len() * hidden * 4);
        let on_card = self.gpu.upload(tokens)?;
        for first in (0..tokens.len()).step_by(MAX_BLOCKS) {
            let rows = (tokens.len() - first).min(MAX_BLOCKS);
            let mut params = EmbedParams {
                matrix: RawMatrix::of(matrix),
                tokens: on_card.address() + (first * 4) as u64,
                x: x + (first * hidden * 4) as u64,
                rows: rows as i32,
                hidden: hidden as i32,
            };
            self.launch(self.embed, [(hidden / 8).div_ceil(THREADS), rows], &mut params)?;
        }
        Ok(())
    }

    /// Writes `matrix` to `out` in 16 bits, (outputs, inputs).
    pub fn unpack(&self, matrix: &Matrix, out: View<'_>) -> Result<()> {
        let Matrix { outputs, inputs, .. } = *matrix;
        let mut params = UnpackParams {
            matrix: RawMatrix::of(matrix),
            out: out.of_bytes(outputs * inputs * 2),
            rows: outputs as i32,
            inputs: inputs as i32,
        };
        let blocks = [(inputs / 8).div_ceil(THREADS), outputs.min(MAX_BLOCKS)];
        self.launch(self.unpack, blocks, &mut params)
    }

    /// Norms rows of `x`, f32 as wide as `weight`, to 16 bits: x / sqrt(mean(x²) + eps) · weight.
    pub fn norm(
        &self,
        x: View<'_>,
        num_rows: usize,
        weight: &Buffer,
        eps: f32,
        out: View<'_>,
    ) -> Result<()> {
        let hidden = weight.bytes() / 4;
        assert!(hidden.is_multiple_of(4), "rows of {hidden}");
        let mut params = NormParams {
            x: x.of_bytes(num_rows * hidden * 4),
            weight: weight.address(),
            out: out.of_bytes(num_rows * hidden * 2),
            hidden: hidden as i32,
            eps,
        };
        self.launch(self.norm, [num_rows, 1], &mut params)
    }

    /// Adds biases, norms heads, turns queries in place, and writes keys and values to the cache.
    pub fn turn(&self, turn: &Turn<'_>) -> Result<()> {
        let Turn { num_rows, start, capacity, num_heads, num_kv_heads, head_dim, .. } = *turn;
        let width = num_heads + 2 * num_kv_heads;
        let held = num_kv_heads * capacity * head_dim * 2;
        let angles = (start + num_rows) * head_dim / 2 * 4;
        assert!(start + num_rows <= capacity, "rows past the cache's {capacity}");
        assert!(head_dim.is_multiple_of(4) && head_dim <= 128, "heads of {head_dim}");
        let of_head = |norm: &Buffer| norm.at(0).of_bytes(head_dim * 4);
        let mut params = TurnParams {
            qkv: turn.qkv.of_bytes(num_rows * width * head_dim * 2),
            bias: turn.bias.map_or(0, |bias| bias.at(0).of_bytes(width * head_dim * 4)),
            q_norm: turn.norms.map_or(0, |(norm, _)| of_head(norm)),
            k_norm: turn.norms.map_or(0, |(_, norm)| of_head(norm)),
            cos: turn.angles[0].at(0).of_bytes(angles),
            sin: turn.angles[1].at(0).of_bytes(angles),
            keys: turn.keys.of_bytes(held),
            values: turn.values.of_bytes(held),
            heads: num_heads as i32,
            kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            capacity: capacity as i32,
            start: start as i32,
            eps: turn.eps,
            scale: turn.scale,
            unused: 0,
        };
        self.launch(self.turn, [width.div_ceil(HEADS), num_rows], &mut params)
    }

    /// Writes silu(gate) · up of rows of `gate_up`, (rows, 2 · `intermediate`), to `out`, after adding
    /// `bias` where there is one.
    pub fn gate(
        &self,
        gate_up: View<'_>,
        num_rows: usize,
        intermediate: usize,
        bias: Option<&Buffer>,
        out: View<'_>,
    ) -> Result<()> {
        assert!(intermediate.is_multiple_of(8), "rows of {intermediate}");
        let mut params = GateParams {
            gate_up: gate_up.of_bytes(num_rows * intermediate * 4),
            bias: bias.map_or(0, |bias| bias.at(0).of_bytes(intermediate * 8)),
            out: out.of_bytes(num_rows * intermediate * 2),
            intermediate: intermediate as i32,
            unused: 0,
        };
        self.launch(self.gate, [(intermediate / 8).div_ceil(THREADS), num_rows], &mut params)
    }

    /// Adds `bias` to rows of f32 that are as wide.
    pub fn add_bias(&self, x: View<'_>, num_rows: usize, bias: &Buffer) -> Result<()> {
        let columns = bias.bytes() / 4;
        let mut params = BiasParams {
            x: x.of_bytes(num_rows * columns * 4),
            bias: bias.address(),
            columns: columns as i32,
            unused: 0,
        };
        self.launch(self.add_bias, [columns.div_ceil(THREADS), num_rows], &mut params)
    }

    fn launch<P>(&self, kernel: Kernel, blocks: [usize; 2], params: &mut P) -> Result<()> {
        let launch = Launch {
            blocks: [blocks[0] as u32, blocks[1] as u32, 1],
            threads: THREADS as u32,
            shared_bytes: 0,
            is_cooperative: false,
        };
        #[expect(unsafe_code, reason = "kernels are launched by address")]
        // SAFETY: the parameters are the kernel's; what they point to is as large as it must be, and buffers
        // wait for the stream when they are let go of.
        unsafe {
            self.module.launch(kernel, launch, params)
        }
    }
}
