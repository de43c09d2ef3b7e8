//! Which instructions this processor has, asked when the program runs: one binary serves all.
//!
//! Loops in plain Rust are compiled once for each set, by [`run`]; those that need instructions by
//! name are in `quantised::x86`. On aarch64 the compiler has NEON for the plain loops.

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
