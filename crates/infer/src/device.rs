//! Devices: which there are, what memory they have free, and which of a model's parts go where.

use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, DeviceLocation};

use crate::error::{Error, Result, one_line};
use crate::memory;
use crate::placement::{Plan, Share};

/// Where a model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// The first GPU of NVIDIA's that answers, and the processor where none does.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA's, by its number.
    Cuda(usize),
    /// A GPU of Apple's.
    Metal,
}

/// What a model's last layers lie on: the processor, or a GPU beside it.
#[derive(Debug, Clone)]
pub enum Target {
    /// A device of candle's.
    Candle(Device),
    /// A GPU of NVIDIA's, with kernels of our own.
    Card(Gpu),
}

impl Target {
    /// The processor.
    pub const CPU: Self = Self::Candle(Device::Cpu);

    /// Whether it is the processor.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Candle(Device::Cpu))
    }

    /// What a user calls it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Candle(device) => name(device),
            Self::Card(gpu) => gpu.name(),
        }
    }

    /// Whose kernels compute there, by the word of `--engine`; `None` for the processor.
    #[must_use]
    pub fn engine(&self) -> Option<&'static str> {
        match self {
            Self::Candle(Device::Cpu) => None,
            Self::Candle(_) => Some("reference"),
            Self::Card(_) => Some("fast"),
        }
    }

    /// The bytes of its memory that nobody has, where they are known.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        match self {
            Self::Candle(device) => free_bytes(device),
            Self::Card(gpu) => gpu.free_bytes(),
        }
    }

    /// The bytes of memory that are in use: on a GPU now, by whatever program; of the processor's what this one
    /// had at most so far. `None` where they are not known.
    #[must_use]
    pub fn used_bytes(&self) -> Option<u64> {
        match self {
            Self::Candle(Device::Cpu) => memory::peak_bytes(),
            Self::Candle(_) => None,
            Self::Card(gpu) => gpu.used_bytes(),
        }
    }

    /// What tells of the energy that it takes, where that is known.
    #[must_use]
    pub fn meter(&self) -> Option<Meter> {
        match self {
            Self::Candle(_) => None,
            Self::Card(gpu) => gpu.meter(),
        }
    }

    /// The type that arithmetic has if nothing else is asked for: on a GPU what is stored, where that is of
    /// 16 bits and the card computes with it, and f16 for bf16 where it does not; on the processor f32.
    /// Kernels of our own have no f32: they get f16 for it.
    #[must_use]
    pub fn default_dtype(&self, stored: checkpoint::Dtype) -> DType {
        match self {
            Self::Candle(device) => default_dtype(device, stored),
            Self::Card(gpu) if stored == checkpoint::Dtype::BF16 && gpu.has_bf16() => DType::BF16,
            Self::Card(_) => DType::F16,
        }
    }
}

impl Place {
    /// What is there; the error says why there is nothing.
    pub fn target(self) -> Result<Target> {
        match self {
            Self::Cpu => Ok(Target::CPU),
            Self::Auto => Ok(auto().clone().unwrap_or(Target::CPU)),
            Self::Cuda(number) => open_cuda(number),
            Self::Metal if !candle_core::utils::metal_is_available() => {
                Err(missing("metal", "metal"))
            }
            Self::Metal => {
                let device = Device::new_metal(0).map_err(|error| Error::NoDevice {
                    device: "metal".to_owned(),
                    reason: one_line(&error),
                })?;
                Ok(Target::Candle(device))
            }
        }
    }
}

/// Why [`Place::Auto`] is the processor, where a GPU could be used.
#[must_use]
pub fn why_no_gpu() -> Option<String> {
    let reason = auto().as_ref().err().cloned();
    reason.filter(|_| has_cuda())
}

/// Whether this program was built for NVIDIA's GPUs.
fn has_cuda() -> bool {
    card::IS_BUILT || candle_core::utils::cuda_is_available()
}

/// The first GPU that answers, or why the first does not; asked once, so that all parts of a model
/// get the same.
fn auto() -> &'static Result<Target, String> {
    /// More than machines have.
    const MOST: usize = 16;
    static FIRST: OnceLock<Result<Target, String>> = OnceLock::new();
    FIRST.get_or_init(|| {
        let count = if has_cuda() { MOST } else { 0 };
        first(count, |number| open_cuda(number).map_err(|error| error.to_string()))
    })
}

/// What the first of `count` numbers that can be opened is, or else the error of number 0.
fn first<T, E>(count: usize, open: impl Fn(usize) -> Result<T, E>) -> Result<T, E> {
    open(0).or_else(|error| (1..count).find_map(|number| open(number).ok()).ok_or(error))
}

fn missing(device: &str, feature: &'static str) -> Error {
    Error::NotBuiltFor { device: device.to_owned(), feature }
}

/// Opens a GPU once: tensors of two handles to one GPU do not mix.
fn open_cuda(number: usize) -> Result<Target> {
    static OPEN: Mutex<Vec<(usize, Target)>> = Mutex::new(Vec::new());
    let device = format!("cuda:{number}");
    if !has_cuda() {
        return Err(missing(&device, "cuda"));
    }
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, target)) = open.iter().find(|(opened, _)| *opened == number) {
        return Ok(target.clone());
    }
    let opened = if card::IS_BUILT {
        Gpu::open(number).map(Target::Card)
    } else {
        cuda::open(number).map(Target::Candle)
    };
    let opened = opened.map_err(|reason| Error::NoDevice { device, reason })?;
    open.push((number, opened.clone()));
    Ok(opened)
}

/// What a user calls a device.
#[must_use]
pub fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { .. } => "metal".to_owned(),
    }
}

/// The bytes of a device's memory that nobody has, where they are known.
#[must_use]
pub fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => memory::free_bytes(),
        Device::Cuda(_) => cuda::free_bytes(device),
        Device::Metal(_) => None,
    }
}

/// The type that arithmetic has on `device` if nothing else is asked for: on a GPU what is stored,
/// where that is of 16 bits and the card computes with it, and f16 for bf16 where it does not; on the
/// processor f32.
#[must_use]
pub fn default_dtype(device: &Device, stored: checkpoint::Dtype) -> DType {
    match stored {
        _ if device.is_cpu() => DType::F32,
        checkpoint::Dtype::BF16 if cuda::has_bf16(device) => DType::BF16,
        checkpoint::Dtype::BF16 | checkpoint::Dtype::F16 => DType::F16,
        _ => DType::F32,
    }
}

/// Where each part of a model lies.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The embedding.
    pub embedding: Device,
    /// Each layer, and its keys and values.
    pub layers: Vec<Device>,
    /// The final norm and the head.
    pub head: Device,
    /// The GPU that has the last layers, with kernels of our own; what is listed here for these does not
    /// count.
    pub card: Option<CardPart>,
    /// The bytes that are to be taken on the GPU, where that was planned.
    pub planned: u64,
}

/// What a GPU with kernels of our own is to hold, beside the final norm and the head.
#[derive(Debug, Clone)]
pub struct CardPart {
    /// The GPU.
    pub gpu: Gpu,
    /// The first of the layers there; all behind it are there, too.
    pub first_layer: usize,
    /// Whether the embedding is there.
    pub has_embedding: bool,
    /// The type of the arithmetic there.
    pub dtype: DType,
}

impl Devices {
    /// All of a model of `num_layers` on one device.
    #[must_use]
    pub fn all(device: &Device, num_layers: usize) -> Self {
        Self {
            embedding: device.clone(),
            layers: vec![device.clone(); num_layers],
            head: device.clone(),
            card: None,
            planned: 0,
        }
    }

    /// As `plan` has it, with the processor beside `target`, which computes in `dtype`.
    #[must_use]
    pub fn of(plan: &Plan, target: &Target, dtype: DType) -> Self {
        let planned = plan.gpu.as_ref().map_or(0, Share::needed_bytes);
        let first_layer = plan.cpu.layers.end;
        match target {
            Target::Candle(device) => {
                let on = |is_on: bool| if is_on { device.clone() } else { Device::Cpu };
                Self {
                    embedding: on(plan.embedding_on_gpu),
                    layers: (0..plan.num_layers).map(|layer| on(layer >= first_layer)).collect(),
                    head: on(plan.head_on_gpu()),
                    card: None,
                    planned,
                }
            }
            Target::Card(gpu) => {
                let has_embedding = plan.embedding_on_gpu;
                let part = CardPart { gpu: gpu.clone(), first_layer, has_embedding, dtype };
                let card = plan.head_on_gpu().then_some(part);
                Self { card, planned, ..Self::all(&Device::Cpu, plan.num_layers) }
            }
        }
    }

    /// `error`, or that of memory which ran out if this is what it says.
    #[must_use]
    pub fn explained(&self, error: Error) -> Error {
        let target = match &self.card {
            Some(part) => Target::Card(part.gpu.clone()),
            None => Target::Candle(self.head.clone()),
        };
        let said = one_line(&error);
        let words = [
            "OUT_OF_MEMORY",
            "out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "are not free on the GPU",
        ];
        if target.is_cpu() || !words.iter().any(|word| said.contains(word)) {
            return error;
        }
        let free = target.free_bytes().unwrap_or(0);
        Error::OutOfMemory { device: target.name(), planned: self.planned, free }
    }
}

#[cfg(feature = "cuda")]
mod card;
#[cfg(not(feature = "cuda"))]
#[path = "device/no_card.rs"]
mod card;
pub use card::{Gpu, Meter};

#[cfg(feature = "candle-cuda")]
mod cuda;
#[cfg(not(feature = "candle-cuda"))]
#[path = "device/no_cuda.rs"]
mod cuda;
#[cfg(all(feature = "candle-cuda", target_os = "linux", target_arch = "x86_64"))]
mod libraries;
#[cfg(all(feature = "candle-cuda", not(all(target_os = "linux", target_arch = "x86_64"))))]
#[path = "device/linked_libraries.rs"]
mod libraries;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gpu_that_answers_is_taken() {
        let open = |answers: &'static [usize]| {
            move |number: usize| answers.contains(&number).then_some(number).ok_or(number)
        };
        assert_eq!(first(3, open(&[0, 1, 2])), Ok(0));
        assert_eq!(first(3, open(&[1, 2])), Ok(1));
        assert_eq!(first(3, open(&[2])), Ok(2));
        assert_eq!(first(3, open(&[])), Err(0));
        assert_eq!(first(0, open(&[2])), Err(0));
    }

    #[test]
    fn a_gpu_computes_in_the_type_that_is_stored() {
        assert_eq!(default_dtype(&Device::Cpu, checkpoint::Dtype::BF16), DType::F32);
    }
}
