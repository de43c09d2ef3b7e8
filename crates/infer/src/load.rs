//! An opened model's weights: what they take, where they go, and loading them.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device};
use checkpoint::{Dtype, Encoding};
use dus::blueprint::Blueprint;

use crate::anatomy::EMBEDDING;
use crate::device::{self, Devices, Place};
use crate::error::{Error, Result};
use crate::footprint::Footprint;
use crate::model::Model;
use crate::open::{Files, Opened};
use crate::placement::{self, GpuLayers, Memory, Plan};
use crate::progress::Watch;
use crate::random_weights::RandomWeights;
use crate::source::{MappedWeights, Storage};
use crate::unbuilt::UnbuiltWeights;

/// The type of the arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 on the CPU; on a GPU f16 or bf16 if the model is stored so, and f32 if not. Quantised blocks
    /// of a GGUF file stay what they are.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, of IEEE 754.
    F16,
    /// 16 bits with the range of 32.
    BF16,
}

/// What is asked of a model's place and arithmetic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Placing {
    /// The type of the arithmetic.
    pub arithmetic: Arithmetic,
    /// The device.
    pub place: Place,
    /// How many layers go there.
    pub gpu_layers: GpuLayers,
}

impl Arithmetic {
    fn dtype(self, device: &Device, stored: Dtype) -> DType {
        match self {
            Self::Auto => device::default_dtype(device, stored),
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }
}

impl Opened {
    /// What it takes in memory; `positions` are those of all sequences that are to run at once.
    pub fn footprint(&self, placing: Placing, positions: usize) -> Result<Footprint> {
        let dtype = self.dtype(placing.arithmetic, &placing.place.device()?);
        let element_bytes = dtype.size_in_bytes();
        let weight_bytes = |name: &str, shape: &[usize]| {
            self.weight_bytes(name, shape, placing.arithmetic, element_bytes)
        };
        let shared = self.blueprint().map(shared).unwrap_or_default();
        let same_as = |name: &str| shared.get(name).copied();
        Ok(Footprint::new(&self.config, positions, element_bytes, &weight_bytes, &same_as))
    }

    /// The bytes that a tensor takes in memory, in an arithmetic of elements of `element_bytes`.
    fn weight_bytes(
        &self,
        name: &str,
        shape: &[usize],
        arithmetic: Arithmetic,
        element_bytes: usize,
    ) -> u64 {
        let storage = self.storage(arithmetic);
        let blocks = self.encoding(name).and_then(|stored| storage.blocks(stored, shape));
        let bytes = blocks.and_then(|ty| Encoding::Blocks(ty).num_bytes(shape));
        bytes.unwrap_or_else(|| (shape.iter().product::<usize>() * element_bytes) as u64)
    }

    /// What becomes of matrices as they are loaded.
    fn storage(&self, arithmetic: Arithmetic) -> Storage {
        match (self.quantize, arithmetic) {
            (Some(quantize), _) => Storage::Quantize(quantize),
            (None, Arithmetic::Auto) => Storage::AsStored,
            // Who asks for a type gets the numbers in that type.
            (None, _) => Storage::Dense,
        }
    }

    /// Decides what goes where: `positions` are those of all sequences that are to run at once.
    ///
    /// Errors are those of a device that is not there, and of layers that do not fit it.
    pub fn plan(&self, placing: Placing, positions: usize) -> Result<Plan> {
        let device = placing.place.device()?;
        let footprint = self.footprint(placing, positions)?;
        let gpu = (!device.is_cpu()).then(|| (device::name(&device), device::free_bytes(&device)));
        let memory = Memory { gpu, cpu: device::free_bytes(&Device::Cpu) };
        placement::plan(&footprint, &memory, placing.gpu_layers)
    }

    /// Loads its weights, which must have been wanted, or makes them up if its geometry was, as `plan` has
    /// it.
    pub fn load_placed(&self, placing: Placing, plan: &Plan, watch: &Watch) -> Result<Model> {
        let device = placing.place.device()?;
        let dtype = self.dtype(placing.arithmetic, &device);
        let storage = self.storage(placing.arithmetic);
        let (devices, config) = (Devices::of(plan, &device), self.config.clone());
        if self.stand_ins.is_some() {
            let stored = match self.encoding(EMBEDDING) {
                Some(Encoding::Plain(stored)) => stored,
                _ => Dtype::F32,
            };
            let shared = self.blueprint().map(shared).unwrap_or_default();
            let source = RandomWeights::new(&config, self.path(), stored, dtype)
                .stored(storage)
                .shared(shared.into_iter().map(|(name, first)| (name.to_owned(), first)));
            return Model::load(config, &source, devices, watch);
        }
        match &self.files {
            Files::Built { checkpoint, outline: None } => {
                let source = MappedWeights::open(Arc::clone(checkpoint), dtype)?.stored(storage);
                Model::load(config, &source, devices, watch)
            }
            Files::Unbuilt(unbuilt) => {
                let source = UnbuiltWeights::open(Arc::clone(unbuilt), dtype)?.stored(storage);
                Model::load(config, &source, devices, watch)
            }
            Files::Built { .. } | Files::Planned(_) => {
                Err(Error::OutlineOnly { model: self.path().to_owned() })
            }
        }
    }

    /// Loads its weights, as many as fit `place` and the rest on the processor, with room for one
    /// sequence of all positions.
    pub fn load(&self, arithmetic: Arithmetic, place: Place, watch: &Watch) -> Result<Model> {
        let placing = Placing { arithmetic, place, gpu_layers: GpuLayers::Auto };
        let plan = self.plan(placing, self.config.max_position_embeddings)?;
        self.load_placed(placing, &plan, watch)
    }

    /// The type of the arithmetic on `device`: the embedding's stands for what is stored.
    fn dtype(&self, arithmetic: Arithmetic, device: &Device) -> DType {
        match self.encoding(EMBEDDING) {
            Some(Encoding::Plain(stored)) => arithmetic.dtype(device, stored),
            _ => arithmetic.dtype(device, Dtype::F16),
        }
    }
}

/// For each new tensor of a plan the number of the first that has the same bytes.
fn shared(blueprint: &Blueprint) -> HashMap<&str, usize> {
    let tensors = &blueprint.splice.tensors;
    let mut seen: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    let mut shared = HashMap::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let alike = seen.entry((tensor.model, tensor.source)).or_default();
        // Noise goes by the tensor's name, so that no two are alike.
        let has_noise = tensor.change.as_ref().is_some_and(|change| !change.noises.is_empty());
        let is_alike = |&&earlier: &&usize| !has_noise && tensors[earlier].change == tensor.change;
        let first = alike.iter().find(is_alike).copied().unwrap_or(number);
        alike.push(number);
        shared.insert(tensor.name.as_str(), first);
    }
    shared
}
