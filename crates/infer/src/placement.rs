//! Which parts of a model go to the GPU: sizes in, a plan out. It knows nothing of devices.
//!
//! The head and the last layers go to the GPU, as many as fit, and the rest stays with the processor:
//! hidden states move once, from the last layer there to the first one here. The embedding is looked
//! up and never multiplied by, so it is the first to stay behind.

use std::fmt::Write as _;
use std::ops::Range;

use crate::error::{Error, Result, gib};
use crate::footprint::Footprint;

/// How many layers go to the GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    #[default]
    Auto,
    /// So many, or all if there are fewer.
    Count(usize),
}

/// Memory that is free, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// A GPU's name and what it has free, if there is one to be used; free is `None` if unknown.
    pub gpu: Option<(String, Option<u64>)>,
    /// What the processor's memory has free, where that is known.
    pub cpu: Option<u64>,
}

/// What a model's parts take, where the GPU has them and where the processor does.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    /// On the GPU.
    pub gpu: &'a Footprint,
    /// On the processor.
    pub cpu: &'a Footprint,
}

/// What one device is to hold, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The device.
    pub device: String,
    /// The numbers of the layers that it holds.
    pub layers: Range<usize>,
    /// What each of these layers' weights add to those before it: what is shared counts once.
    pub layer_bytes: Vec<u64>,
    /// The embedding.
    pub embedding_bytes: u64,
    /// The final norm, and the head where it is not the embedding.
    pub head_bytes: u64,
    /// Keys and values.
    pub cache_bytes: u64,
    /// Activations; on a GPU what its driver takes, too.
    pub work_bytes: u64,
    /// What the device has free, where that is known.
    pub free_bytes: Option<u64>,
}

impl Share {
    /// All weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.embedding_bytes + self.layer_bytes.iter().sum::<u64>() + self.head_bytes
    }

    /// All of it.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        self.weight_bytes() + self.cache_bytes + self.work_bytes
    }

    /// Whether the device has room for it, where that is known.
    #[must_use]
    pub fn fits(&self) -> Option<bool> {
        self.free_bytes.map(|free| self.needed_bytes() <= free)
    }

    /// The parts, in words.
    fn parts(&self) -> String {
        let mut parts = Vec::new();
        parts.extend((self.embedding_bytes > 0).then(|| "embedding".to_owned()));
        parts.extend((!self.layers.is_empty()).then(|| layers(&self.layers)));
        parts.extend((self.head_bytes > 0).then(|| "head".to_owned()));
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }
}

/// Which parts go where, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The number of layers.
    pub num_layers: usize,
    /// What the GPU holds, if there is one to be used: the last layers.
    pub gpu: Option<Share>,
    /// What the processor holds: the first layers.
    pub cpu: Share,
    /// Whether the GPU holds the embedding.
    pub embedding_on_gpu: bool,
    /// Positions that there is room for.
    pub positions: usize,
    /// What would let one device do all the work, where it has no room for that: a piece of advice each.
    pub advice: Vec<String>,
    /// What would fit, where the processor has no room for its share.
    pub fits_cpu: Vec<String>,
}

/// Decides where the parts of a model go.
///
/// The error is that of a count of layers which the GPU has no room for. What the processor has no room
/// for is planned all the same: [`Plan::check_cpu`] is the error of that.
pub fn plan(sizes: Sizes, memory: &Memory, gpu_layers: GpuLayers) -> Result<Plan> {
    let all = sizes.cpu.layers.len();
    let Some((device, free)) = &memory.gpu else {
        let mut plan = Plan::new(sizes, memory, 0, false);
        if plan.cpu.fits() == Some(false) {
            plan.advice = what_fits(sizes.cpu, &plan.cpu);
            plan.fits_cpu.clone_from(&plan.advice);
        }
        return Ok(plan);
    };
    let GpuLayers::Count(count) = gpu_layers else {
        let mut plan = most_that_fits(sizes, memory);
        if plan.is_split() {
            plan.advice = what_fits_gpu(sizes, memory);
        }
        if plan.cpu.fits() == Some(false) {
            plan.fits_cpu = what_fits_both(sizes, &plan);
        }
        return Ok(plan);
    };
    let count = count.min(all);
    // All on the GPU is one memory less to look after; next comes all that is multiplied by.
    let with_embedding = Plan::new(sizes, memory, count, count == all);
    let plan = Plan::new(sizes, memory, count, false);
    let gpu = plan.gpu.clone();
    let most = || most_that_fits(sizes, memory).num_gpu_layers();
    if let Some(mut plan) = [with_embedding, plan].into_iter().find(Plan::fits_gpu) {
        if plan.cpu.fits() == Some(false) {
            plan.fits_cpu = what_fits_both(sizes, &plan);
            let more = Some(most()).filter(|&on_gpu| on_gpu > count);
            plan.fits_cpu.extend(more.map(|on_gpu| {
                format!("--gpu-layers auto puts {on_gpu} of {all} layers on {device}")
            }));
        }
        return Ok(plan);
    }
    let mut fits = what_fits_gpu(sizes, memory);
    fits.push(format!("--gpu-layers auto puts {} of {all} layers there", most()));
    Err(Error::DoesNotFit {
        device: device.clone(),
        what: layers(&(all - count..all)),
        needed: gpu.map_or(0, |gpu| gpu.needed_bytes()),
        free: free.unwrap_or(0),
        fits: fits.join("; "),
    })
}

fn most_that_fits(sizes: Sizes, memory: &Memory) -> Plan {
    let all = sizes.gpu.layers.len();
    let with_embedding = Plan::new(sizes, memory, all, true);
    let plans = (0..=all).rev().map(|count| Plan::new(sizes, memory, count, false));
    // Nothing on the GPU always fits.
    let fitting = [with_embedding].into_iter().chain(plans).find(Plan::fits_gpu);
    fitting.unwrap_or_else(|| Plan::new(sizes, memory, 0, false))
}

/// What of a model fits a GPU that does not hold all of it, as advice.
fn what_fits_gpu(sizes: Sizes, memory: &Memory) -> Vec<String> {
    let whole = Plan::new(sizes, memory, sizes.gpu.layers.len(), true).gpu;
    whole.map_or_else(Vec::new, |whole| what_fits(sizes.gpu, &whole))
}

/// What would fit the device that `whole`, all of a model, does not.
fn what_fits(footprint: &Footprint, whole: &Share) -> Vec<String> {
    let mut fits = Vec::new();
    let free = whole.free_bytes.unwrap_or(0);
    for &(name, weights) in &footprint.quantised_bytes {
        let needed = whole.needed_bytes() - whole.weight_bytes() + weights;
        if weights < whole.weight_bytes() && needed <= free {
            fits.push(format!("--quantize {name} takes {} there", gib(needed)));
        }
    }
    if whole.weight_bytes() < free {
        // All else grows with them.
        let weights = gib(whole.weight_bytes());
        fits.push(format!("fewer positions or sequences, as weights alone take {weights}"));
    }
    if footprint.layers.iter().all(|layer| layer.shared.is_empty()) {
        fits.push("an up-scaled model that is run unbuilt takes its base's memory".to_owned());
    }
    fits
}

/// What would fit a GPU and a processor that has no room for its part of a model, as advice.
fn what_fits_both(sizes: Sizes, plan: &Plan) -> Vec<String> {
    let shares = || plan.shares();
    let (needed, weights): (u64, u64) =
        (shares().map(Share::needed_bytes).sum(), shares().map(Share::weight_bytes).sum());
    let free: u64 = shares().filter_map(|share| share.free_bytes).sum();
    let mut fits = Vec::new();
    for &(name, quantised) in &sizes.gpu.quantised_bytes {
        let needed = needed - weights + quantised;
        if quantised < weights && needed <= free {
            fits.push(format!("--quantize {name} takes {} in all", gib(needed)));
        }
    }
    fits
}

impl Plan {
    fn new(sizes: Sizes, memory: &Memory, on_gpu: usize, embedding_on_gpu: bool) -> Self {
        let all = sizes.gpu.layers.len();
        let first = all - on_gpu;
        let head_on_gpu = on_gpu > 0;
        let embedding_on_gpu = embedding_on_gpu || sizes.gpu.is_tied && head_on_gpu;
        let if_there = |is_there: bool, bytes: u64| if is_there { bytes } else { 0 };
        let share = |is_gpu: bool, device: &str, free_bytes: Option<u64>| {
            let layers = if is_gpu { first..all } else { 0..first };
            let footprint = if is_gpu { sizes.gpu } else { sizes.cpu };
            let work = if is_gpu { footprint.gpu_work_bytes } else { footprint.cpu_work_bytes };
            let position_bytes = footprint.position_bytes * layers.len() as u64;
            Share {
                device: device.to_owned(),
                layer_bytes: footprint.layer_bytes(layers.clone()),
                embedding_bytes: if_there(embedding_on_gpu == is_gpu, footprint.embedding_bytes),
                head_bytes: if_there(head_on_gpu == is_gpu, footprint.head_bytes),
                cache_bytes: position_bytes * footprint.positions as u64,
                work_bytes: if_there(!layers.is_empty(), work),
                free_bytes,
                layers,
            }
        };
        Self {
            num_layers: all,
            gpu: memory.gpu.as_ref().map(|(name, free)| share(true, name, *free)),
            cpu: share(false, "cpu", memory.cpu),
            embedding_on_gpu,
            positions: sizes.gpu.positions,
            advice: Vec::new(),
            fits_cpu: Vec::new(),
        }
    }

    /// The error is that of a processor that has no room for its share. One of a GPU's is no plan.
    pub fn check_cpu(&self) -> Result<()> {
        if self.cpu.fits() != Some(false) {
            return Ok(());
        }
        Err(Error::DoesNotFit {
            device: self.cpu.device.clone(),
            what: self.cpu.parts(),
            needed: self.cpu.needed_bytes(),
            free: self.cpu.free_bytes.unwrap_or(0),
            fits: self.fits_cpu.join("; "),
        })
    }

    fn fits_gpu(&self) -> bool {
        self.gpu.as_ref().and_then(Share::fits).unwrap_or(true)
    }

    /// The number of layers on the GPU, which are the last ones.
    #[must_use]
    pub fn num_gpu_layers(&self) -> usize {
        self.num_layers - self.cpu.layers.end
    }

    /// Whether the final norm and the head are on the GPU: where the last layer is.
    #[must_use]
    pub fn head_on_gpu(&self) -> bool {
        self.num_gpu_layers() > 0
    }

    /// Whether there is a GPU that holds a part of the layers only.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.gpu.is_some() && self.num_gpu_layers() < self.num_layers
    }

    /// What each device holds: that of the GPU, if there is one to be used, and of the processor, if it
    /// holds anything.
    pub fn shares(&self) -> impl Iterator<Item = &Share> + Clone {
        self.gpu.iter().chain(Some(&self.cpu).filter(|cpu| cpu.needed_bytes() > 0))
    }

    /// The plan in lines: what each device is to hold, of what it has free.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("placement, with room for {} positions:\n", self.positions);
        for share in self.shares() {
            let needed = share.needed_bytes();
            let free = match share.free_bytes {
                Some(free) if needed > free => format!(", more than the {} free", gib(free)),
                Some(free) => format!(" of {} free", gib(free)),
                None => String::new(),
            };
            let _ = writeln!(
                text,
                "  {:<7} {}: {} weights + {} cache + {} work = {}{free}",
                share.device,
                share.parts(),
                gib(share.weight_bytes()),
                gib(share.cache_bytes),
                gib(share.work_bytes),
                gib(needed),
            );
        }
        if let Some(advice) = self.advice_line() {
            let _ = writeln!(text, "  {advice}");
        }
        text
    }

    /// The advice on a line, if there is any.
    #[must_use]
    pub fn advice_line(&self) -> Option<String> {
        let device = if self.gpu.is_some() { "GPU" } else { "CPU" };
        let advice = self.advice.join("; ");
        (!advice.is_empty()).then(|| format!("for all of it on the {device}: {advice}"))
    }
}

fn layers(numbers: &Range<usize>) -> String {
    format!("layers {}..{}", numbers.start, numbers.end)
}

#[cfg(test)]
mod tests;
