//! How long the choice of the next tokens takes on a GPU.
//!
//!     cargo run --release -p kernels --example sample_speed -- [VOCAB_SIZE,…] [BATCH,…]
//!
//! Logits are random, spread as a trained model's are (2.5) and as flat ones (0.1). A line for each vocabulary,
//! batch, spread and way of choosing: the time on the card, and the time until the host has the tokens.

use std::time::Instant;

use kernels::sample::{History, Row, Sampler, Settings};
use kernels::{Gpu, Result};

/// Choices of a measurement, and how many of these there are: the median counts.
const CHOICES: usize = 4;
const REPEATS: usize = 25;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers = |i: usize, default: &str| -> Vec<usize> {
        let text = args.get(i).map_or(default, String::as_str);
        text.split(',').filter_map(|number| number.parse().ok()).collect()
    };
    let gpu = Gpu::open(0)?;
    println!("{}", gpu.name()?);
    for vocab_size in numbers(0, "32000,152064") {
        let mut sampler = Sampler::new(&gpu, vocab_size)?;
        for batch in numbers(1, "1,8") {
            for spread in [2.5, 0.1] {
                let logits = gpu.upload(&normal(batch * vocab_size, spread))?;
                for (name, settings) in ways() {
                    let mut histories = Vec::new();
                    for _ in 0..batch {
                        histories.push(History::new(
                            &gpu,
                            vocab_size,
                            [&[1, 2, 3], &[]],
                            &[],
                            &[],
                        )?);
                    }
                    let mut rows: Vec<Row> = histories
                        .iter_mut()
                        .map(|history| Row {
                            settings,
                            draw: 0.618,
                            history: settings.needs_history().then_some(history),
                        })
                        .collect();
                    let (mut on_card, mut until_here) = (Vec::new(), Vec::new());
                    for _ in 0..REPEATS {
                        on_card.push(gpu.seconds(|| {
                            (0..CHOICES)
                                .try_for_each(|_| sampler.start(logits.at(0), &mut rows, false))
                        })?);
                        (0..CHOICES).try_for_each(|_| sampler.finish().map(|_| ()))?;
                        let begin = Instant::now();
                        for _ in 0..CHOICES {
                            sampler.choose(logits.at(0), &mut rows, false)?;
                        }
                        until_here.push(begin.elapsed().as_secs_f64());
                    }
                    let [on_card, until_here] = [on_card, until_here].map(|mut times| {
                        times.sort_by(f64::total_cmp);
                        times[REPEATS / 2] / CHOICES as f64 * 1e6
                    });
                    println!(
                        "{vocab_size:6} tokens, batch {batch}, spread {spread}, {name:22}: \
                         {on_card:5.1} µs on the card, {until_here:5.1} µs until the host has them"
                    );
                }
            }
        }
    }
    Ok(())
}

fn ways() -> [(&'static str, Settings); 7] {
    let greedy = Settings::default();
    let all = Settings { temperature: 0.8, ..greedy };
    [
        ("greedy", greedy),
        ("greedy, repetition 1.1", Settings { repetition_penalty: 1.1, ..greedy }),
        ("temperature", all),
        ("top-k 50", Settings { top_k: 50, ..all }),
        ("top-p 0.95", Settings { top_p: 0.95, ..all }),
        ("top-k, top-p, min-p", Settings { top_k: 50, top_p: 0.95, min_p: 0.05, ..all }),
        ("typical 0.9", Settings { typical_p: 0.9, ..all }),
    ]
}

/// Numbers of mean 0, nearly normal.
fn normal(count: usize, spread: f32) -> Vec<f32> {
    let mix = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    let uniform = |i: usize| mix(i) as f32 / (1 << 24) as f32;
    (0..count).map(|i| spread * ((0..12).map(|j| uniform(i * 12 + j)).sum::<f32>() - 6.0)).collect()
}
