//! What a card says of itself, against what it does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use std::time::{Duration, Instant};

use kernels::bandwidth::read_bytes_per_second;
use kernels::nvml::Meter;
use reference::card::card;

#[test]
fn energy_is_that_of_a_card_at_work() {
    let Some(gpu) = card() else { return };
    let Some(meter) = Meter::of(&gpu) else {
        return println!("skipped: there is no libnvidia-ml.so.1");
    };
    println!("{:?}, driver {:?}", meter.name(), meter.driver_version());
    assert_eq!(meter.name().unwrap(), gpu.name().unwrap());
    let Some(before) = meter.energy_mj() else {
        return println!("skipped: this card does not count its energy");
    };
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        read_bytes_per_second(&gpu, 1 << 30).unwrap();
    }
    let millijoules = meter.energy_mj().unwrap() - before;
    let watts = millijoules as f64 / 1e3 / begin.elapsed().as_secs_f64();
    println!("{watts:.0} W by energy; {:?} mW now", meter.power_mw());
    assert!((5.0..5e3).contains(&watts), "{watts} W");
}

#[test]
fn memory_is_in_use_while_a_buffer_lives() {
    let Some(gpu) = card() else { return };
    let before = gpu.used_bytes().unwrap();
    let buffer = gpu.zeros(1 << 30).unwrap();
    let during = gpu.used_bytes().unwrap();
    drop(buffer);
    println!("{before} bytes in use, then {during}, then {}", gpu.used_bytes().unwrap());
    // Other tests let go of memory meanwhile, but hardly of so much.
    assert!(during > before + (1 << 29), "{before}, {during}");
}
