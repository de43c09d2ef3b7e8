//! The card, if there is one, and what goes there and comes back.

use std::sync::Arc;

use half::{bf16, f16};
use kernels::decode::Element;
use kernels::{Buffer, Gpu};

/// The first card; where there is none, the test says so and is over.
#[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
pub(crate) fn card() -> Option<Arc<Gpu>> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

pub(crate) const ELEMENTS: [Element; 2] = [Element::F16, Element::BF16];

/// What rounding to 16 bits changes at most, of a number near 1.
pub(crate) fn epsilon(element: Element) -> f64 {
    match element {
        Element::F16 => 1.0 / 2048.0,
        Element::BF16 => 1.0 / 256.0,
    }
}

/// The bytes of 16-bit numbers.
pub(crate) fn bytes(element: Element, numbers: &[f32]) -> Vec<u8> {
    let bits = |&number: &f32| match element {
        Element::F16 => f16::from_f32(number).to_bits(),
        Element::BF16 => bf16::from_f32(number).to_bits(),
    };
    numbers.iter().flat_map(|number| bits(number).to_le_bytes()).collect()
}

pub(crate) fn upload(gpu: &Arc<Gpu>, element: Element, numbers: &[f32]) -> Buffer {
    gpu.upload(&bytes(element, numbers)).unwrap()
}

/// Room for 16-bit numbers, all of them NaN: whatever is not written shows.
pub(crate) fn poisoned(gpu: &Arc<Gpu>, bytes: usize) -> Buffer {
    gpu.upload(&vec![0xff_u8; bytes]).unwrap()
}

/// `count` 16-bit numbers of a buffer.
pub(crate) fn download(element: Element, buffer: &Buffer, count: usize) -> Vec<f32> {
    let mut bytes = vec![0_u8; count * 2];
    buffer.read(0, &mut bytes).unwrap();
    let (pairs, _) = bytes.as_chunks::<2>();
    let number = |&pair: &[u8; 2]| match element {
        Element::F16 => f16::from_le_bytes(pair).to_f32(),
        Element::BF16 => bf16::from_le_bytes(pair).to_f32(),
    };
    pairs.iter().map(number).collect()
}

/// ‖found − expected‖ / ‖expected‖ is at most `most`, and NaN is not.
#[track_caller]
#[expect(clippy::print_stdout, reason = "who looks closer wants the number")]
pub(crate) fn check_close(what: &str, found: &[f32], expected: &[f64], most: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let (mut apart, mut all) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        apart += (f64::from(found) - expected).powi(2);
        all += expected.powi(2);
    }
    let error = (apart / all).sqrt();
    println!("{what}: {error:.2e}");
    assert!(error <= most, "{what}: {error:e} of {most:e}");
}
