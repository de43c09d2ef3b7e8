//! What a build without kernels of our own says of GPUs: there is none.

/// Whether they are in this program.
pub(super) const IS_BUILT: bool = false;

/// A GPU; none is ever opened.
#[derive(Debug, Clone)]
pub struct Gpu(());

#[expect(clippy::unused_self, reason = "they have the faces of those that a GPU has")]
impl Gpu {
    pub(super) fn open(_: usize) -> Result<Self, String> {
        Err("this infer was built for the CPU".to_owned())
    }

    pub(crate) fn read_bytes_per_second(&self) -> Result<f64, crate::Error> {
        Err(crate::Error::NotBuiltFor { device: self.name(), feature: "cuda" })
    }

    pub(crate) fn flops_per_second(&self, _: bool) -> Result<f64, crate::Error> {
        Err(crate::Error::NotBuiltFor { device: self.name(), feature: "cuda" })
    }

    pub(super) fn used_bytes(&self) -> Option<u64> {
        None
    }

    pub(super) fn meter(&self) -> Option<Meter> {
        None
    }

    pub(super) fn name(&self) -> String {
        "cuda".to_owned()
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        None
    }

    pub(super) fn has_bf16(&self) -> bool {
        false
    }
}

/// What tells of a GPU; there is never one.
#[derive(Debug)]
pub enum Meter {}

impl Meter {
    /// The energy since some time in the past, in J.
    #[must_use]
    pub fn joules(&self) -> Option<f64> {
        match *self {}
    }

    /// The card's name and its driver's version.
    #[must_use]
    pub fn card(&self) -> Option<String> {
        match *self {}
    }
}
