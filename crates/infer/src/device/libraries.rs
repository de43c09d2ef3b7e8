//! NVIDIA's libraries, opened at their first call.
//!
//! candle's CUDA backend is linked to them, and the system's loader refuses to start a program whose
//! libraries are not there, with words of its own. The functions that the backend calls are therefore
//! defined here, where the linker looks first, as jumps through a table; the first call of each opens its
//! library and fills its slot. A program with CUDA in it so starts on machines without.
//!
//! A function that is missing in the list is linked as before: the program then needs its library to
//! start, and `readelf -d` shows it.

#![expect(unsafe_code, reason = "functions of other libraries have no other form")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The libraries, by what the names of their functions begin with; the longest beginning counts.
const LIBRARIES: [(&str, [&CStr; 2]); 5] = [
    ("__cuda", [c"libcudart.so.13", c"libcudart.so.12"]),
    ("cuda", [c"libcudart.so.13", c"libcudart.so.12"]),
    ("cublas", [c"libcublas.so.13", c"libcublas.so.12"]),
    ("curand", [c"libcurand.so.10", c"libcurand.so.10"]),
    ("cu", [c"libcuda.so.1", c"libcuda.so.1"]),
];

/// The first library that cannot be opened.
pub(super) fn missing() -> Option<&'static str> {
    let is_missing = |(_, names): &&(&str, [&'static CStr; 2])| open(names).is_null();
    // The driver comes first: without it the others mean nothing.
    let found = LIBRARIES.iter().rev().find(is_missing);
    found.and_then(|(_, [name, _])| name.to_str().ok())
}

/// A function of a library: where its calls go, and its name.
#[repr(C)]
struct Slot {
    target: AtomicPtr<c_void>,
    name: *const c_char,
}

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

fn open(names: &[&CStr]) -> *mut c_void {
    const NOW: c_int = 2;
    // SAFETY: the names end with a zero. Opening a library that is open counts it once more.
    let opened = names.iter().map(|name| unsafe { dlopen(name.as_ptr(), NOW) });
    opened.into_iter().find(|library| !library.is_null()).unwrap_or(std::ptr::null_mut())
}

/// What a function of a library that is not there returns: an error in each of their countings.
extern "C" fn absent() -> c_int {
    100
}

/// Fills a slot, at the first call through it; runs before `main` too, as kernels register themselves.
extern "C" fn bind(slot: &Slot) -> *mut c_void {
    // SAFETY: the assembly below puts a zero behind each name.
    let name = unsafe { CStr::from_ptr(slot.name) };
    let begins = |(start, _): &&(&str, _)| name.to_bytes().starts_with(start.as_bytes());
    let library = LIBRARIES.iter().find(begins).map_or(std::ptr::null_mut(), |(_, it)| open(it));
    let mut found = std::ptr::null_mut();
    if !library.is_null() {
        // SAFETY: the library is open and is never closed.
        found = unsafe { dlsym(library, slot.name) };
    }
    if found.is_null() {
        found = absent as extern "C" fn() -> c_int as *mut c_void;
    }
    slot.target.store(found, Ordering::Release);
    found
}

/// Defines functions that jump through their slots.
macro_rules! functions {
    ($($name:literal)*) => {
        std::arch::global_asm!(
            ".pushsection .text.infer_cuda, \"ax\", @progbits",
            // An argument's register is kept over the call of `bind`; r11 belongs to nobody.
            "9:",
            "push rbp",
            "mov rbp, rsp",
            "push rdi", "push rsi", "push rdx", "push rcx", "push r8", "push r9",
            "sub rsp, 128",
            "movups [rsp], xmm0", "movups [rsp + 16], xmm1",
            "movups [rsp + 32], xmm2", "movups [rsp + 48], xmm3",
            "movups [rsp + 64], xmm4", "movups [rsp + 80], xmm5",
            "movups [rsp + 96], xmm6", "movups [rsp + 112], xmm7",
            "mov rdi, r11",
            "call {bind}",
            "mov r11, rax",
            "movups xmm0, [rsp]", "movups xmm1, [rsp + 16]",
            "movups xmm2, [rsp + 32]", "movups xmm3, [rsp + 48]",
            "movups xmm4, [rsp + 64]", "movups xmm5, [rsp + 80]",
            "movups xmm6, [rsp + 96]", "movups xmm7, [rsp + 112]",
            "add rsp, 128",
            "pop r9", "pop r8", "pop rcx", "pop rdx", "pop rsi", "pop rdi",
            "pop rbp",
            "jmp r11",
            $(concat!(
                ".globl ", $name, "\n",
                ".type ", $name, ", @function\n",
                $name, ": jmp [rip + 3f]\n",
                "2: lea r11, [rip + 3f]\n",
                "jmp 9b\n",
                ".pushsection .data.infer_cuda, \"aw\", @progbits\n",
                ".balign 8\n",
                "3: .quad 2b\n",
                ".quad 4f\n",
                "4: .asciz \"", $name, "\"\n",
                ".popsection",
            ),)*
            ".popsection",
            bind = sym bind,
        );
    };
}

// What candle 0.11 calls, by `nm -D --undefined-only` of a program without this module.
functions! {
    "__cudaGetKernel"
    "__cudaLaunchKernel_ptsz"
    "__cudaPopCallConfiguration"
    "__cudaPushCallConfiguration"
    "__cudaRegisterFatBinary"
    "__cudaRegisterFatBinaryEnd"
    "__cudaRegisterFunction"
    "__cudaRegisterVar"
    "__cudaUnregisterFatBinary"
    "cuCtxDestroy_v2"
    "cuCtxGetCurrent"
    "cuCtxSetCurrent"
    "cuCtxSynchronize"
    "cuDeviceGet"
    "cuDeviceGetAttribute"
    "cuDeviceGetCount"
    "cuDevicePrimaryCtxRelease_v2"
    "cuDevicePrimaryCtxRetain"
    "cuEventCreate"
    "cuEventDestroy_v2"
    "cuEventRecord"
    "cuGetErrorString"
    "cuInit"
    "cuLaunchKernel"
    "cuMemAllocAsync"
    "cuMemAlloc_v2"
    "cuMemFreeAsync"
    "cuMemFree_v2"
    "cuMemGetInfo_v2"
    "cuMemcpyDtoDAsync_v2"
    "cuMemcpyDtoHAsync_v2"
    "cuMemcpyHtoDAsync_v2"
    "cuMemcpyPeerAsync"
    "cuMemsetD8Async"
    "cuModuleGetFunction"
    "cuModuleLoad"
    "cuModuleLoadData"
    "cuModuleUnload"
    "cuStreamCreate"
    "cuStreamDestroy_v2"
    "cuStreamIsCapturing"
    "cuStreamSynchronize"
    "cuStreamWaitEvent"
    "cublasCreate_v2"
    "cublasDestroy_v2"
    "cublasDgemmStridedBatched"
    "cublasGemmStridedBatchedEx"
    "cublasSetStream_v2"
    "cudaDeviceGetAttribute"
    "cudaFree"
    "cudaFreeAsync_ptsz"
    "cudaFuncGetAttributes"
    "cudaFuncSetAttribute"
    "cudaGetDevice"
    "cudaGetDeviceCount"
    "cudaGetErrorName"
    "cudaGetErrorString"
    "cudaGetLastError"
    "cudaMalloc"
    "cudaMallocAsync_ptsz"
    "cudaMemsetAsync_ptsz"
    "cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"
    "cudaPeekAtLastError"
    "cudaSetDevice"
    "cudaStreamSynchronize_ptsz"
    "curandCreateGenerator"
    "curandDestroyGenerator"
    "curandSetPseudoRandomGeneratorSeed"
    "curandSetStream"
}
