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
