//! NVIDIA's GPUs, with kernels of our own.

use std::sync::Arc;

use kernels::decode::Element;

/// Whether they are in this program.
pub(super) const IS_BUILT: bool = true;

/// A GPU.
#[derive(Debug, Clone)]
pub struct Gpu {
    number: usize,
    pub(crate) gpu: Arc<kernels::Gpu>,
}

impl Gpu {
    pub(super) fn open(number: usize) -> Result<Self, String> {
        let open = || {
            let gpu = kernels::Gpu::open(number)?;
            kernels::prefill::check(&gpu)?;
            Ok(gpu)
        };
        let gpu = open().map_err(|error: kernels::Error| error.to_string())?;
        Ok(Self { number, gpu })
    }

    /// The bytes a second that it reads of its memory.
    pub(crate) fn read_bytes_per_second(&self) -> Result<f64, kernels::Error> {
        /// Far more than its caches hold, where there is so much.
        const MOST: u64 = 4 << 30;
        let bytes = (self.gpu.free_bytes()? / 2).min(MOST) as usize;
        kernels::bandwidth::read_bytes_per_second(&self.gpu, bytes)
    }

    /// The operations a second of a large product of matrices of 16 bits.
    pub(crate) fn flops_per_second(&self, is_bf16: bool) -> Result<f64, kernels::Error> {
        let element = if is_bf16 { Element::BF16 } else { Element::F16 };
        kernels::gemm::flops_per_second(&self.gpu, element)
    }

    /// The bytes of its memory that are in use, by whatever program.
    pub(super) fn used_bytes(&self) -> Option<u64> {
        self.gpu.used_bytes().ok()
    }

    /// What tells of the energy that it takes, where that is known.
    pub(super) fn meter(&self) -> Option<Meter> {
        kernels::nvml::Meter::of(&self.gpu).map(Meter)
    }

    pub(super) fn name(&self) -> String {
        format!("cuda:{}", self.number)
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.gpu.free_bytes().ok()
    }

    /// Whether it computes with bf16: cards from compute capability 8.0 on (A100) do.
    pub(super) fn has_bf16(&self) -> bool {
        self.gpu.compute_capability().is_ok_and(|(major, _)| major >= 8)
    }
}

/// What tells of a GPU, and of the energy that it takes.
#[derive(Debug)]
pub struct Meter(kernels::nvml::Meter);

impl Meter {
    /// The energy since some time in the past, in J; what is measured by it should take a second or more.
    #[must_use]
    pub fn joules(&self) -> Option<f64> {
        self.0.energy_mj().map(|energy| energy as f64 / 1e3)
    }

    /// The card's name and its driver's version, as in "NVIDIA H100 80GB HBM3, driver 580.159.04".
    #[must_use]
    pub fn card(&self) -> Option<String> {
        let driver = self.0.driver_version().map(|version| format!(", driver {version}"));
        self.0.name().map(|name| name + &driver.unwrap_or_default())
    }
}
