//! NVIDIA's libraries where the system's loader opens them: a program that runs has them all.

/// The first library that cannot be opened.
pub(super) fn missing() -> Option<&'static str> {
    None
}
