//! A card, its memory, and work that it does in order.

#![expect(unsafe_code, reason = "the driver's functions have no other form")]

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};

use crate::error::{Error, Result};

/// A card with one stream: all work on it is done in the order in which it is asked for.
#[derive(Debug)]
pub struct Gpu {
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
    num_multiprocessors: u32,
}

// SAFETY: the driver's handles may be used by any thread that has made the context its own, which each
// call here does first.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks what must be.
unsafe impl Sync for Gpu {}

/// Calls a function of the driver's, and makes an error of what is no success.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: arguments are handles that the driver gave, and memory that lives through the call.
        $crate::gpu::check(stringify!($function), unsafe { sys::$function($($argument),*) })
    };
}
pub(crate) use call;

pub(crate) fn check(call: &'static str, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut name = ptr::null();
    // SAFETY: the driver gives a text of its own, or none.
    let named = unsafe { sys::cuGetErrorName(result, &raw mut name) };
    let name = if named == CUresult::CUDA_SUCCESS && !name.is_null() {
        // SAFETY: as above; it ends with a zero.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    } else {
        format!("{result:?}")
    };
    Err(Error::Driver { call, name })
}

impl Gpu {
    /// Opens card number `number`.
    ///
    /// Errors are those of a driver or card that is not there.
    pub fn open(number: usize) -> Result<Arc<Self>> {
        // SAFETY: a library is looked for.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoLibrary { library: "libcuda.so.1" });
        }
        call!(cuInit(0))?;
        let mut count = 0;
        call!(cuDeviceGetCount(&raw mut count))?;
        let count = usize::try_from(count).unwrap_or(0);
        let ordinal = i32::try_from(number).ok().filter(|_| number < count);
        let ordinal = ordinal.ok_or(Error::NoDevice { count })?;
        let (mut device, mut context, mut stream) = (0, ptr::null_mut(), ptr::null_mut());
        call!(cuDeviceGet(&raw mut device, ordinal))?;
        call!(cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        call!(cuCtxSetCurrent(context))?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&raw mut stream, flags))?;
        let mut gpu = Self { context, device, stream, num_multiprocessors: 0 };
        gpu.num_multiprocessors =
            gpu.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Arc::new(gpu))
    }

    fn attribute(&self, attribute: CUdevice_attribute) -> Result<u32> {
        let mut value = 0;
        call!(cuDeviceGetAttribute(&raw mut value, attribute, self.device))?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Its name, as in "NVIDIA H100 80GB HBM3".
    pub fn name(&self) -> Result<String> {
        let mut name = [0; 256];
        call!(cuDeviceGetName(name.as_mut_ptr(), 256, self.device))?;
        // SAFETY: the driver ends it with a zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }

    /// Its compute capability, as in (9, 0).
    pub fn compute_capability(&self) -> Result<(u32, u32)> {
        use CUdevice_attribute as A;
        Ok((
            self.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            self.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    }

    /// How many multiprocessors it has.
    #[must_use]
    pub fn num_multiprocessors(&self) -> u32 {
        self.num_multiprocessors
    }

    /// The bytes of its memory that nobody has.
    pub fn free_bytes(&self) -> Result<u64> {
        self.memory().map(|(free, _)| free)
    }

    /// The bytes of its memory that are in use, by whatever program: also what the driver keeps of what
    /// was let go of.
    pub fn used_bytes(&self) -> Result<u64> {
        self.memory().map(|(free, total)| total.saturating_sub(free))
    }

    /// Free, and in all.
    fn memory(&self) -> Result<(u64, u64)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        call!(cuMemGetInfo_v2(&raw mut free, &raw mut total))?;
        Ok((free as u64, total as u64))
    }

    /// Where it is plugged in, as in "0000:1b:00.0".
    pub(crate) fn pci_bus_id(&self) -> Result<CString> {
        let mut id = [0; 32];
        call!(cuDeviceGetPCIBusId(id.as_mut_ptr(), 32, self.device))?;
        // SAFETY: the driver ends it with a zero.
        Ok(unsafe { CStr::from_ptr(id.as_ptr()) }.to_owned())
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<()> {
        self.enter()?;
        call!(cuStreamSynchronize(self.stream))
    }

    /// The time that the card takes for the work that `work` asks for.
    pub fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.enter()?;
        let (mut begin, mut end) = (ptr::null_mut(), ptr::null_mut());
        call!(cuEventCreate(&raw mut begin, 0))?;
        call!(cuEventCreate(&raw mut end, 0))?;
        let measured = (|| {
            call!(cuEventRecord(begin, self.stream))?;
            work()?;
            call!(cuEventRecord(end, self.stream))?;
            call!(cuEventSynchronize(end))?;
            Ok(f64::from(milliseconds(begin, end)?) / 1e3)
        })();
        for event in [begin, end] {
            call!(cuEventDestroy_v2(event))?;
        }
        measured
    }

    /// What all work is queued on.
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Makes the card the calling thread's.
    pub(crate) fn enter(&self) -> Result<()> {
        call!(cuCtxSetCurrent(self.context))
    }

    /// `bytes` of its memory, with whatever was in them.
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        self.enter()?;
        let mut address = 0;
        match call!(cuMemAlloc_v2(&raw mut address, bytes.max(16))) {
            Ok(()) => Ok(Buffer { gpu: Arc::clone(self), address, bytes }),
            Err(Error::Driver { name, .. }) if name == "CUDA_ERROR_OUT_OF_MEMORY" => {
                Err(Error::OutOfMemory { bytes })
            }
            Err(error) => Err(error),
        }
    }

    /// `bytes` of its memory, all zero.
    pub fn zeros(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let buffer = self.alloc(bytes)?;
        call!(cuMemsetD8Async(buffer.address, 0, buffer.bytes, self.stream))?;
        Ok(buffer)
    }

    /// A copy of `bytes` in its memory.
    pub fn upload<T: Plain>(self: &Arc<Self>, numbers: &[T]) -> Result<Buffer> {
        let mut buffer = self.alloc(size_of_val(numbers))?;
        buffer.write(0, numbers)?;
        Ok(buffer)
    }

    /// The kernels of a fatbin.
    pub(crate) fn module(self: &Arc<Self>, fatbin: &[u8]) -> Result<Module> {
        if fatbin.is_empty() {
            return Err(Error::NoKernels);
        }
        self.enter()?;
        let mut module = ptr::null_mut();
        match call!(cuModuleLoadData(&raw mut module, fatbin.as_ptr().cast())) {
            Ok(()) => Ok(Module { gpu: Arc::clone(self), module }),
            Err(Error::Driver { name, .. }) if name == "CUDA_ERROR_NO_BINARY_FOR_GPU" => {
                let (major, minor) = self.compute_capability()?;
                Err(Error::NoKernelForCard { major, minor })
            }
            Err(error) => Err(error),
        }
    }
}

/// The time between two events that came.
fn milliseconds(begin: sys::CUevent, end: sys::CUevent) -> Result<f32> {
    type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    let name = "cuEventElapsedTime";
    // By the name that all drivers have: those before 12.8 lack its second version, and cudarc the first.
    // SAFETY: the driver's own function of this form; the library stays open.
    let elapsed = unsafe { sys::culib().get::<Elapsed>(name.as_bytes()) };
    let elapsed = elapsed.map_err(|error| Error::Driver { call: name, name: error.to_string() })?;
    let mut milliseconds = 0.0;
    // SAFETY: it writes a number, and looks at events that are there.
    let result = unsafe { elapsed(&raw mut milliseconds, begin, end) };
    if result != sys::CUresult::CUDA_SUCCESS {
        return Err(Error::Driver { call: name, name: format!("{result:?}") });
    }
    Ok(milliseconds)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Nothing can be done where this fails.
        let _ = self.enter();
        let _ = call!(cuStreamDestroy_v2(self.stream));
        let _ = call!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

/// Numbers that are the same bytes here and on a card, whatever the bytes are.
///
/// # Safety
///
/// A type without padding, references or values that are not allowed.
pub unsafe trait Plain: Copy {}
// SAFETY: all of them are numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}

/// A stretch of a card's memory.
#[derive(Debug)]
pub struct Buffer {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// Where it begins, as kernels see it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The card that it is on.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What of it begins at byte `offset`.
    #[must_use]
    pub fn at(&self, offset: usize) -> View<'_> {
        assert!(offset <= self.bytes, "byte {offset} of {}", self.bytes);
        View { buffer: self, offset }
    }

    /// Copies `numbers` to it, from byte `offset` on.
    pub fn write<T: Plain>(&mut self, offset: usize, numbers: &[T]) -> Result<()> {
        let bytes = size_of_val(numbers);
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        self.gpu.enter()?;
        let to = self.address + offset as u64;
        // Numbers in memory that is not pinned are out of there when this returns.
        call!(cuMemcpyHtoDAsync_v2(to, numbers.as_ptr().cast(), bytes, self.gpu.stream))
    }

    /// Copies the first `bytes` of each of `rows` rows to `to`; rows begin so many bytes apart here and there.
    pub(crate) fn copy_rows(
        &self,
        to: &Self,
        pitches: (usize, usize),
        bytes: usize,
        rows: usize,
    ) -> Result<()> {
        self.at(0).copy_rows(to.at(0), pitches, bytes, rows)
    }

    /// A copy of it, on the same card.
    pub fn copied(&self) -> Result<Self> {
        let copy = self.gpu.alloc(self.bytes)?;
        call!(cuMemcpyDtoDAsync_v2(copy.address, self.address, self.bytes, self.gpu.stream))?;
        Ok(copy)
    }

    /// Copies numbers of it, from byte `offset` on, into `numbers`, when all work before is done.
    pub fn read<T: Plain>(&self, offset: usize, numbers: &mut [T]) -> Result<()> {
        let bytes = size_of_val(numbers);
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        self.gpu.enter()?;
        let from = self.address + offset as u64;
        call!(cuMemcpyDtoHAsync_v2(numbers.as_mut_ptr().cast(), from, bytes, self.gpu.stream))?;
        call!(cuStreamSynchronize(self.gpu.stream))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        // It waits for work that may use the memory.
        let _ = call!(cuMemFree_v2(self.address));
    }
}

/// The rest of a buffer from some byte on. Kernels write there too: all that a card does is in order.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    buffer: &'a Buffer,
    offset: usize,
}

impl View<'_> {
    /// Where it begins, as kernels see it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.buffer.address + self.offset as u64
    }

    /// How many bytes there are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.bytes - self.offset
    }

    /// As [`Buffer::copy_rows`].
    pub(crate) fn copy_rows(
        &self,
        to: View<'_>,
        pitches: (usize, usize),
        bytes: usize,
        rows: usize,
    ) -> Result<()> {
        let end = |pitch: usize| rows.saturating_sub(1) * pitch + bytes;
        assert!(bytes <= pitches.0.min(pitches.1), "rows lie over each other");
        let gpu = &self.buffer.gpu;
        gpu.enter()?;
        let on_card = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let copy = sys::CUDA_MEMCPY2D_st {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: on_card,
            srcHost: ptr::null(),
            srcDevice: self.of_bytes(end(pitches.0)),
            srcArray: ptr::null_mut(),
            srcPitch: pitches.0,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: on_card,
            dstHost: ptr::null_mut(),
            dstDevice: to.of_bytes(end(pitches.1)),
            dstArray: ptr::null_mut(),
            dstPitch: pitches.1,
            WidthInBytes: bytes,
            Height: rows,
        };
        call!(cuMemcpy2DAsync_v2(&raw const copy, gpu.stream))
    }

    /// Where it begins, if `bytes` are there.
    pub(crate) fn of_bytes(&self, bytes: usize) -> u64 {
        assert!(bytes <= self.bytes(), "{bytes} bytes of {}", self.bytes());
        self.address()
    }
}

/// Kernels that were loaded.
#[derive(Debug)]
pub(crate) struct Module {
    gpu: Arc<Gpu>,
    module: sys::CUmodule,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Module {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Module {}

/// A kernel of a module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel(sys::CUfunction);

// SAFETY: as for `Gpu`.
unsafe impl Send for Kernel {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Kernel {}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    /// Whether all blocks must run at once, as they wait for each other.
    pub(crate) is_cooperative: bool,
}

impl Module {
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel> {
        let name = CString::new(name).expect("names have no zeros");
        let mut function = ptr::null_mut();
        self.gpu.enter()?;
        call!(cuModuleGetFunction(&raw mut function, self.module, name.as_ptr()))?;
        Ok(Kernel(function))
    }

    /// The bytes of shared memory that a block of `kernel` may ask for, which it then may.
    pub(crate) fn allow_shared(&self, kernel: Kernel) -> Result<usize> {
        use sys::CUfunction_attribute as A;
        self.gpu.enter()?;
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = i32::try_from(self.gpu.attribute(most)?).unwrap_or(0);
        let mut own = 0;
        let size = A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        call!(cuFuncGetAttribute(&raw mut own, size, kernel.0))?;
        let rest = (most - own).max(0);
        let dynamic = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        call!(cuFuncSetAttribute(kernel.0, dynamic, rest))?;
        Ok(usize::try_from(rest).unwrap_or(0))
    }

    /// Launches `kernel` behind all work before.
    ///
    /// # Safety
    ///
    /// `parameters` are the kernel's, byte for byte, and what they point to lives until the kernel is
    /// done.
    pub(crate) unsafe fn launch<P>(
        &self,
        kernel: Kernel,
        launch: Launch,
        parameters: &mut P,
    ) -> Result<()> {
        self.gpu.enter()?;
        let mut attribute = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            // SAFETY: a union of numbers; the one that counts is set below.
            ..unsafe { std::mem::zeroed() }
        };
        attribute.value.cooperative = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: launch.blocks[0],
            gridDimY: launch.blocks[1],
            gridDimZ: launch.blocks[2],
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.gpu.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(launch.is_cooperative),
        };
        let mut arguments = [ptr::from_mut(parameters).cast::<c_void>()];
        call!(cuLaunchKernelEx(
            &raw const config,
            kernel.0,
            arguments.as_mut_ptr(),
            ptr::null_mut()
        ))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        let _ = call!(cuModuleUnload(self.module));
    }
}
