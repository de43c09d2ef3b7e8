//! Which instructions this processor has, asked when the program runs: one binary serves all.
//!
//! Loops in plain Rust are compiled once for each set, by [`run`]; those that need instructions by
//! name are in `dot_x86`, `dot_neon`, `quantised::x86` and `quantised::neon`.

/// A set of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// What every processor of the target has.
    Plain,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with sums of products of bytes (`sdot`), an option of Armv8.2 that Armv8.4 has always.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Instructions {
    /// The best set that this processor has.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if has_avx2 && has_avx512 {
                return Self::Avx512;
            }
            if has_avx2 {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected;
            // Four bytes of a line are a word of `Activations` only where the first is the lowest.
            if cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon") {
                let has_sdot = is_aarch64_feature_detected!("dotprod");
                return if has_sdot { Self::NeonDot } else { Self::Neon };
            }
        }
        Self::Plain
    }

    /// All sets that this processor has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        match Self::best() {
            Self::Plain => vec![Self::Plain],
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => vec![Self::Plain, Self::Avx2],
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => vec![Self::Plain, Self::Avx2, Self::Avx512],
            #[cfg(target_arch = "aarch64")]
            Self::Neon => vec![Self::Plain, Self::Neon],
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => vec![Self::Plain, Self::Neon, Self::NeonDot],
        }
    }
}

/// A loop. Its `run` and all that it calls must be `#[inline(always)]`: only what is inlined is
/// compiled for the set.
pub(crate) trait Loop {
    fn run(self);
}

/// Runs `it` as compiled for the best set that this processor has.
pub(crate) fn run(it: impl Loop) {
    match Instructions::best() {
        Instructions::Plain => it.run(),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: `best` has asked the processor for them.
        Instructions::Avx2 => unsafe { avx2(it) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: `best` has asked the processor for them.
        Instructions::Avx512 => unsafe { avx512(it) },
        // The compiler has NEON wherever it compiles for aarch64.
        #[cfg(target_arch = "aarch64")]
        Instructions::Neon | Instructions::NeonDot => it.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(it: impl Loop) {
    it.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn avx512(it: impl Loop) {
    it.run();
}
