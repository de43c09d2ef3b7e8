//! What energy a card takes, by NVIDIA's management library, where there is one.

#![expect(unsafe_code, reason = "the library's functions have no other form")]

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr;

use libloading::Library;

use crate::gpu::Gpu;

/// The driver brings it; the second name is Windows'.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "nvml.dll"];

/// A card's own meter. What the card or the library does not tell is `None`.
#[derive(Debug)]
pub struct Meter {
    library: Library,
    device: *mut c_void,
}

// SAFETY: the library may be used by any thread, and its handles too.
unsafe impl Send for Meter {}
// SAFETY: as above.
unsafe impl Sync for Meter {}

/// What functions of the library return where they succeed.
const SUCCESS: c_int = 0;

/// Calls a function of a library; whether it is there and succeeds.
macro_rules! call {
    ($library:expr, $name:literal, ($($type:ty),*), ($($argument:expr),*)) => {{
        // SAFETY: the library's functions have these types.
        let function = unsafe {
            $library.get::<unsafe extern "C" fn($($type),*) -> c_int>($name)
        };
        // SAFETY: arguments are what the library gave, and memory that lives through the call.
        function.is_ok_and(|function| unsafe { function($($argument),*) } == SUCCESS)
    }};
}

impl Meter {
    /// The meter of `gpu`; `None` where there is no such library, or where it does not know the card.
    #[must_use]
    pub fn of(gpu: &Gpu) -> Option<Self> {
        let library = NAMES.iter().find_map(|name| open(name))?;
        let id = gpu.pci_bus_id().ok()?;
        if !call!(library, b"nvmlInit_v2\0", (), ()) {
            return None;
        }
        // From here on it is shut down when this is let go of.
        let mut meter = Self { library, device: ptr::null_mut() };
        let is_there = call!(
            meter.library,
            b"nvmlDeviceGetHandleByPciBusId_v2\0",
            (*const c_char, *mut *mut c_void),
            (id.as_ptr(), &raw mut meter.device)
        );
        is_there.then_some(meter)
    }

    /// The energy that the card has taken since the driver was loaded, in mJ.
    ///
    /// It counts on every 20 to 100 ms: what is measured by it should take a second or more.
    #[must_use]
    pub fn energy_mj(&self) -> Option<u64> {
        let mut energy: c_ulonglong = 0;
        let is_known = call!(
            self.library,
            b"nvmlDeviceGetTotalEnergyConsumption\0",
            (*mut c_void, *mut c_ulonglong),
            (self.device, &raw mut energy)
        );
        is_known.then_some(energy)
    }

    /// The power that it takes now, in mW; on most cards the mean of the last second.
    #[must_use]
    pub fn power_mw(&self) -> Option<u32> {
        let mut power: c_uint = 0;
        let is_known = call!(
            self.library,
            b"nvmlDeviceGetPowerUsage\0",
            (*mut c_void, *mut c_uint),
            (self.device, &raw mut power)
        );
        is_known.then_some(power)
    }

    /// The card's name, as in "NVIDIA H100 80GB HBM3".
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let mut name = [0_u8; 96];
        let is_known = call!(
            self.library,
            b"nvmlDeviceGetName\0",
            (*mut c_void, *mut c_char, c_uint),
            (self.device, name.as_mut_ptr().cast(), 96)
        );
        is_known.then(|| text(&name))
    }

    /// The driver's version, as in "580.159.04".
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        let mut version = [0_u8; 80];
        let is_known = call!(
            self.library,
            b"nvmlSystemGetDriverVersion\0",
            (*mut c_char, c_uint),
            (version.as_mut_ptr().cast(), 80)
        );
        is_known.then(|| text(&version))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Nothing can be done where this fails.
        let _ = call!(self.library, b"nvmlShutdown\0", (), ());
    }
}

fn open(name: &str) -> Option<Library> {
    // SAFETY: NVIDIA's library does nothing when it is loaded.
    unsafe { Library::new(name) }.ok()
}

/// What is before the first zero.
fn text(from: &[u8]) -> String {
    let text = from.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_no_error() {
        assert!(open("libnvidia-ml-of-nobody.so.1").is_none());
    }

    #[test]
    fn texts_end_at_the_first_zero_or_where_there_is_no_more() {
        assert_eq!(text(b"580.1\0xyz"), "580.1");
        assert_eq!(text(b"580.1"), "580.1");
        assert_eq!(text(b""), "");
    }
}
