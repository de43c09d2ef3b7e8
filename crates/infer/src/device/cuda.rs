//! What needs candle's CUDA backend to be compiled in.

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::CudaContext;

use super::libraries;
use crate::error::one_line;

/// How many GPUs there are.
fn count() -> Result<usize, String> {
    if let Some(library) = libraries::missing() {
        return Err(format!("{library} is not found: is NVIDIA's driver, and CUDA, installed?"));
    }
    let count = CudaContext::device_count()
        .map_err(|error| format!("NVIDIA's driver does not answer ({error})"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Opens a GPU, with one stream for all threads.
///
/// candle's own choice is a stream for each thread: products would wait for each other where they come
/// from the threads of a pool.
pub(super) fn open(number: usize) -> Result<Device, String> {
    let count = count()?;
    if number >= count {
        return Err(format!("this machine has {count} of NVIDIA's GPUs, numbered from 0"));
    }
    let device = Device::new_cuda_with_stream(number).map_err(|error| one_line(&error))?;
    if let Device::Cuda(cuda) = &device {
        #[expect(unsafe_code, reason = "events between streams take time, and there is one stream")]
        // SAFETY: every tensor of this device is made, used and freed in the one stream of this
        // handle, in order; no other stream is made.
        unsafe {
            cuda.disable_event_tracking();
        }
    }
    Ok(device)
}

/// The bytes that nobody has.
pub(super) fn free_bytes(device: &Device) -> Option<u64> {
    let Device::Cuda(cuda) = device else { return None };
    let (free, _total) = cuda.cuda_stream().context().mem_get_info().ok()?;
    Some(free as u64)
}

/// Whether it computes with bf16: cards from compute capability 8.0 on (A100) do.
pub(super) fn has_bf16(device: &Device) -> bool {
    let Device::Cuda(cuda) = device else { return true };
    cuda.cuda_stream().context().compute_capability().is_ok_and(|(major, _)| major >= 8)
}
