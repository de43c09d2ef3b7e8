//! What a build without CUDA says of it.

use candle_core::Device;

pub(super) fn open(_: usize) -> Result<Device, String> {
    Err("this infer was built for the CPU".to_owned())
}

pub(super) fn free_bytes(_: &Device) -> Option<u64> {
    None
}

pub(super) fn has_bf16(_: &Device) -> bool {
    true
}
