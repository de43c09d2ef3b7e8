//! An opened model's weights: what they take, where they go, and loading them.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use checkpoint::{Dtype, Encoding};
use dus::blueprint::Blueprint;

use crate::anatomy::EMBEDDING;
use crate::cache;
use crate::card;
use crate::device::{self, Devices, Place, Target};
use crate::error::{Error, Result};
use crate::footprint::{Footprint, RESERVE};
use crate::model::Model;
use crate::open::{Files, Opened};
use crate::placement::{self, GpuLayers, Memory, Plan, Sizes};
use crate::progress::Watch;
use crate::quantised::Quantize;
use crate::random_weights::RandomWeights;
use crate::source::{MappedWeights, Storage};
use crate::unbuilt::UnbuiltWeights;

/// Positions without which there is no talking to a model.
const LEAST_POSITIONS: usize = 512;

/// The type of the arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 on the CPU, where matrices stay in the 16 bits that they are stored in; on a GPU f16 or bf16 if
    /// the model is stored so, and if not f16, or f32 by candle's kernels. Quantised blocks of a GGUF file
    /// stay what they are.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, of IEEE 754.
    F16,
    /// 16 bits with the range of 32.
    BF16,
}

/// Whose kernels compute on a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// Ours, where they are in this program.
    #[default]
    Auto,
    /// Ours.
    Fast,
    /// candle's, which ours are compared with; on the processor the decoder is the same for all.
    Reference,
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
    /// Whose kernels compute there.
    pub engine: Engine,
}

/// Where a model runs, and why it is the processor if it might have been a GPU.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// What was chosen.
    pub target: Target,
    /// Why a GPU was not, for a user.
    pub why_cpu: Option<String>,
}

impl Placing {
    /// What is there, for any model; errors are those of a device or an engine that is not.
    pub fn target(&self) -> Result<Target> {
        Ok(self.choose(None)?.target)
    }

    /// What is there, for a model that kernels of our own do not have if there is an `unsupported`.
    ///
    /// What they cannot do goes to the processor if no GPU was named, and is an error if one was.
    fn choose(&self, unsupported: Option<Error>) -> Result<Chosen> {
        let target = self.place.target()?;
        let is_card = matches!(target, Target::Card(_));
        if let Some(reason) = self.why_cpu_instead(is_card, &target.name(), unsupported)? {
            return Ok(Chosen { target: Target::CPU, why_cpu: Some(reason) });
        }
        let is_second_choice = self.place == Place::Auto && target.is_cpu();
        Ok(Chosen { why_cpu: is_second_choice.then(device::why_no_gpu).flatten(), target })
    }

    /// Why the processor is to take what `device` cannot, if it is: a card with kernels of our own or what candle
    /// computes on.
    fn why_cpu_instead(
        &self,
        is_card: bool,
        device: &str,
        unsupported: Option<Error>,
    ) -> Result<Option<String>> {
        let device = device.to_owned();
        let reason = match self.engine {
            Engine::Reference if is_card => return Err(Error::NoReferenceEngine { device }),
            Engine::Fast if !is_card => {
                let is_auto = self.place == Place::Auto;
                let reason = is_auto.then(device::why_no_gpu).flatten();
                return Err(Error::NoFastEngine { device, reason });
            }
            _ if !is_card => None,
            _ if self.arithmetic == Arithmetic::F32 => Some(Error::NoF32),
            _ => unsupported,
        };
        match reason {
            Some(reason) if self.place == Place::Auto && self.engine == Engine::Auto => {
                Ok(Some(reason.to_string()))
            }
            Some(reason) => Err(reason),
            None => Ok(None),
        }
    }
}

impl Arithmetic {
    fn dtype(self, target: &Target, stored: Dtype) -> DType {
        match self {
            Self::Auto => target.default_dtype(stored),
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// What becomes of matrices as they are loaded, if they are not to be quantised.
    fn storage(self) -> Storage {
        match self {
            Self::Auto => Storage::AsStored,
            // Who asks for a type gets the numbers in that type.
            Self::F32 | Self::F16 | Self::BF16 => Storage::Dense,
        }
    }
}

impl Opened {
    /// Where it runs.
    pub fn target(&self, placing: Placing) -> Result<Chosen> {
        let unsupported = card::unsupported(&self.config);
        placing.choose(unsupported.map(|reason| Error::NotOnCard { reason }))
    }

    /// What it takes in memory; `sequences` are the positions of each cache that there is at once.
    pub fn footprint(&self, placing: Placing, sequences: &[usize]) -> Result<Footprint> {
        Ok(self.footprint_on(&self.target(placing)?.target, placing.arithmetic, sequences))
    }

    fn footprint_on(
        &self,
        target: &Target,
        arithmetic: Arithmetic,
        sequences: &[usize],
    ) -> Footprint {
        let most = self.config.max_position_embeddings;
        let positions = sequences.iter().map(|&positions| cache::rounded(positions, most)).sum();
        let dtype = self.dtype(arithmetic, target);
        let shared = self.blueprint().map(shared).unwrap_or_default();
        let footprint = |storage: Storage| {
            let weight_bytes = |name: &str, shape: &[usize]| {
                // One that is missing is an error later.
                let missing = Encoding::Plain(Dtype::F32);
                let encoding = |name: &str| self.encoding(name).unwrap_or(missing);
                match target {
                    Target::Candle(device) => storage.bytes(encoding(name), shape, dtype, device),
                    Target::Card(_) => card::bytes(name, shape, storage, &encoding),
                }
            };
            let alone = |name: &str| shared.get(name).copied();
            let numbers = card::SharedNumbers::default();
            let same_as = |name: &str| match target {
                Target::Candle(_) => alone(name),
                Target::Card(_) => numbers.of(name, &alone),
            };
            let element_bytes = dtype.size_in_bytes();
            let footprint =
                Footprint::new(&self.config, positions, element_bytes, &weight_bytes, &same_as);
            match target {
                Target::Candle(_) => footprint,
                Target::Card(_) => {
                    let has_codes = self.has_codes(storage);
                    let gpu_work_bytes = RESERVE + card::work_bytes(&self.config, has_codes);
                    Footprint { gpu_work_bytes, ..footprint }
                }
            }
        };
        let quantised = |quantize: Quantize| {
            (quantize.name(), footprint(Storage::Quantize(quantize)).weight_bytes())
        };
        let quantised_bytes = [Quantize::Q8_0, Quantize::Q4K].map(quantised).to_vec();
        Footprint { quantised_bytes, ..footprint(self.storage(arithmetic)) }
    }

    /// The type of the arithmetic where it runs: on a GPU with kernels of our own f16 beside codes.
    pub fn arithmetic(&self, placing: Placing) -> Result<DType> {
        let target = self.target(placing)?.target;
        let is_card = matches!(target, Target::Card(_));
        if is_card && self.has_codes(self.storage(placing.arithmetic)) {
            return Ok(DType::F16);
        }
        Ok(self.dtype(placing.arithmetic, &target))
    }

    /// Whether a GPU with kernels of our own would have codes.
    fn has_codes(&self, storage: Storage) -> bool {
        card::has_codes(&self.config, 0, storage, &|name| self.encoding(name))
    }

    /// What becomes of matrices as they are loaded.
    fn storage(&self, arithmetic: Arithmetic) -> Storage {
        self.quantize.map_or(arithmetic.storage(), Storage::Quantize)
    }

    /// Decides what goes where; `sequences` are the positions of each cache that there is at once.
    ///
    /// Errors are those of a device that is not there, and of layers that do not fit it.
    pub fn plan(&self, placing: Placing, sequences: &[usize]) -> Result<Plan> {
        let target = self.target(placing)?.target;
        let footprint = |target: &Target| self.footprint_on(target, placing.arithmetic, sequences);
        let gpu = (!target.is_cpu()).then(|| (target.name(), target.free_bytes()));
        let memory = Memory { gpu, cpu: Target::CPU.free_bytes() };
        let (there, here) = (footprint(&target), footprint(&Target::CPU));
        let sizes = match &target {
            Target::Card(_) => Sizes { gpu: &there, cpu: &here },
            // candle computes in one type on both.
            Target::Candle(_) => Sizes { gpu: &there, cpu: &there },
        };
        let plan = placement::plan(sizes, &memory, placing.gpu_layers)?;
        if target.is_cpu() || plan.head_on_gpu() {
            return Ok(plan);
        }
        if placing.engine == Engine::Fast {
            let reason = Some("no layer is on the GPU".to_owned());
            return Err(Error::NoFastEngine { device: "cpu".to_owned(), reason });
        }
        // All of it is the processor's, in the type that the processor computes in.
        let sizes = Sizes { gpu: &here, cpu: &here };
        let on_cpu = placement::plan(sizes, &memory, GpuLayers::Count(0))?;
        Ok(Plan { advice: plan.advice, ..on_cpu })
    }

    /// Loads its weights, which must have been wanted, or makes them up if its geometry was, as `plan` has
    /// it.
    ///
    /// Before any is read comes the error of a processor that has no room for its part.
    pub fn load_placed(&self, placing: Placing, plan: &Plan, watch: &Watch) -> Result<Model> {
        plan.check_cpu()?;
        let target = self.target(placing)?.target;
        // The head is on the GPU if anything is.
        let head = if plan.head_on_gpu() { target.clone() } else { Target::CPU };
        let on_target = self.dtype(placing.arithmetic, &head);
        let (devices, config) = (Devices::of(plan, &target, on_target), self.config.clone());
        // Beside kernels of our own the processor computes as it does alone.
        let dtype = match head {
            Target::Candle(_) => on_target,
            Target::Card(_) => self.dtype(placing.arithmetic, &Target::CPU),
        };
        let storage = self.storage(placing.arithmetic);
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
    /// sequence of all positions, or of as many as the processor has room for.
    pub fn load(&self, arithmetic: Arithmetic, place: Place, watch: &Watch) -> Result<Model> {
        let placing = Placing { arithmetic, place, ..Placing::default() };
        self.load_placed(placing, &self.plan_most_positions(placing)?, watch)
    }

    /// As [`Opened::plan`] for one sequence of all positions; where the processor has no room for their
    /// keys and values, of a half of them, or a quarter, and so on.
    pub fn plan_most_positions(&self, placing: Placing) -> Result<Plan> {
        let mut positions = self.config.max_position_embeddings;
        let all = self.plan(placing, &[positions])?;
        let mut plan = all.clone();
        while plan.check_cpu().is_err() {
            positions /= 2;
            if positions < LEAST_POSITIONS {
                // It is not for them.
                return Ok(all);
            }
            plan = self.plan(placing, &[positions])?;
        }
        Ok(plan)
    }

    /// The type of the arithmetic on `target`: the embedding's stands for what is stored.
    fn dtype(&self, arithmetic: Arithmetic, target: &Target) -> DType {
        match self.encoding(EMBEDDING) {
            Some(Encoding::Plain(stored)) => arithmetic.dtype(target, stored),
            _ => arithmetic.dtype(target, Dtype::F16),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_card_cannot_do_is_the_processors_or_an_error() {
        let placing =
            |place, engine, arithmetic| Placing { arithmetic, place, engine, ..Placing::default() };
        let (auto, named) = (Place::Auto, Place::Cuda(0));
        let f16 = Arithmetic::F16;
        for place in [auto, named] {
            for engine in [Engine::Auto, Engine::Fast] {
                let runs = placing(place, engine, f16).why_cpu_instead(true, "cuda:0", None);
                assert!(matches!(runs, Ok(None)), "{runs:?}");
            }
            let other = placing(place, Engine::Reference, f16);
            let error = other.why_cpu_instead(true, "cuda:0", None).unwrap_err();
            assert!(matches!(error, Error::NoReferenceEngine { .. }), "{error}");
            // candle's devices have it, and not the other.
            assert!(matches!(other.why_cpu_instead(false, "cpu", None), Ok(None)));
            let fast = placing(place, Engine::Fast, f16).why_cpu_instead(false, "cpu", None);
            assert!(matches!(fast, Err(Error::NoFastEngine { .. })), "{fast:?}");
        }
        for (arithmetic, word) in [(Arithmetic::F32, "f32"), (f16, "heads")] {
            let by = |place, engine| {
                let unsupported =
                    (word == "heads").then(|| Error::NotOnCard { reason: word.to_owned() });
                placing(place, engine, arithmetic).why_cpu_instead(true, "cuda:0", unsupported)
            };
            let reason = by(auto, Engine::Auto).unwrap().unwrap();
            assert!(reason.contains(word), "{reason}");
            for (place, engine) in [(named, Engine::Auto), (auto, Engine::Fast)] {
                let error = by(place, engine).unwrap_err().to_string();
                assert!(error.contains(word), "{error}");
            }
        }
    }
}
