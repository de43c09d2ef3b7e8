//! A decoder in plain loops, in f64, rounding where the kernels round.

#![allow(dead_code, reason = "each test is a program of its own, and none uses all")]

pub(crate) mod card;
pub(crate) mod model;

use half::{bf16, f16};
use kernels::decode::{Element, Shape};
use kernels::forms::Form;

/// A matrix in plain numbers, row by row.
pub(crate) type Numbers = Vec<f32>;

/// A counter that is mixed: numbers that look random and are always the same.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Of mean 0 and variance 1, nearly enough.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// `count` numbers from -`most` to `most`.
pub(crate) fn numbers(random: &mut Random, count: usize, most: f32) -> Vec<f32> {
    (0..count).map(|_| (2.0 * random.uniform() - 1.0) * most).collect()
}

/// The same, of 16 bits.
pub(crate) fn halves(element: Element, random: &mut Random, count: usize, most: f32) -> Vec<f32> {
    numbers(random, count, most).into_iter().map(|x| rounded(element, x)).collect()
}

pub(crate) fn rounded(element: Element, x: f32) -> f32 {
    match element {
        Element::F16 => f16::from_f32(x).to_f32(),
        Element::BF16 => bf16::from_f32(x).to_f32(),
    }
}

/// A matrix as a file has it, and its numbers.
pub(crate) fn matrix(
    random: &mut Random,
    form: Form,
    element: Element,
    outputs: usize,
    inputs: usize,
) -> (Vec<u8>, Numbers) {
    let spread = 1.0 / (inputs as f32).sqrt();
    let (mut bytes, mut numbers) = (Vec::new(), Vec::with_capacity(outputs * inputs));
    match form {
        Form::Dense => {
            for _ in 0..outputs * inputs {
                let x = spread * random.normal();
                match element {
                    Element::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                    Element::BF16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
                }
                numbers.push(rounded(element, x));
            }
        }
        Form::Q8_0 => {
            for _ in 0..outputs * inputs / 32 {
                let scale = f16::from_f32(spread / 50.0 * (0.5 + random.uniform()));
                bytes.extend(scale.to_le_bytes());
                for _ in 0..32 {
                    let code = (random.bits() % 255) as i16 - 127;
                    bytes.push((code as i8).cast_unsigned());
                    numbers.push(scale.to_f32() * f32::from(code));
                }
            }
        }
        Form::Q4K => {
            for _ in 0..outputs * inputs / 256 {
                q4_k(random, spread, &mut bytes, &mut numbers);
            }
        }
    }
    (bytes, numbers)
}

/// A block of `Q4_K` of random codes and scales, as llama.cpp describes it.
fn q4_k(random: &mut Random, spread: f32, bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    let d = f16::from_f32(spread / 130.0 * (0.5 + random.uniform()));
    let dmin = f16::from_f32(spread / 17.0 * (0.5 + random.uniform()));
    let scales: Vec<u8> = (0..8).map(|_| (random.bits() % 64) as u8).collect();
    let minima: Vec<u8> = (0..8).map(|_| (random.bits() % 64) as u8).collect();
    let codes: Vec<u8> = (0..256).map(|_| (random.bits() % 16) as u8).collect();
    bytes.extend(d.to_le_bytes());
    bytes.extend(dmin.to_le_bytes());
    bytes.extend((0..4).map(|j| scales[j] | (scales[j + 4] >> 4) << 6));
    bytes.extend((0..4).map(|j| minima[j] | (minima[j + 4] >> 4) << 6));
    bytes.extend((0..4).map(|j| scales[j + 4] & 15 | (minima[j + 4] & 15) << 4));
    for chunk in codes.chunks(64) {
        bytes.extend((0..32).map(|j| chunk[j] | chunk[j + 32] << 4));
    }
    for (part, codes) in codes.chunks(32).enumerate() {
        let scale = d.to_f32() * f32::from(scales[part]);
        let minimum = dmin.to_f32() * f32::from(minima[part]);
        numbers.extend(codes.iter().map(|&code| scale * f32::from(code) - minimum));
    }
}

/// Cosines and sines, (positions, `head_dim / 2`) each.
pub(crate) fn angles(positions: usize, head_dim: usize) -> (Vec<f32>, Vec<f32>) {
    let half = head_dim / 2;
    let angle = |i: usize| {
        let frequency = 10_000_f64.powf(-((i % half) as f64) / half as f64);
        (i / half) as f64 * frequency
    };
    let all = || (0..positions * half).map(angle);
    (all().map(|a| a.cos() as f32).collect(), all().map(|a| a.sin() as f32).collect())
}

pub(crate) struct ReferenceLayer {
    pub(crate) matrices: [Numbers; 4],
    pub(crate) forms: [Form; 4],
    pub(crate) norms: [Vec<f32>; 2],
    pub(crate) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) biases: [Option<Vec<f32>>; 4],
    pub(crate) window: Option<usize>,
}

pub(crate) struct Reference {
    pub(crate) shape: Shape,
    pub(crate) element: Element,
    pub(crate) embedding: Numbers,
    pub(crate) head: Numbers,
    pub(crate) head_form: Form,
    pub(crate) norm: Vec<f32>,
    pub(crate) layers: Vec<ReferenceLayer>,
    pub(crate) angles: (Vec<f32>, Vec<f32>),
}

/// `W · x + b`.
fn product(matrix: &[f32], x: &[f32], bias: Option<&Vec<f32>>) -> Vec<f32> {
    let rows = matrix.chunks_exact(x.len()).enumerate();
    let sum = |(i, row): (usize, &[f32])| {
        let sum: f64 = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
        sum as f32 + bias.map_or(0.0, |bias| bias[i])
    };
    rows.map(sum).collect()
}

fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * scale) as f32 * w).collect()
}

impl Reference {
    fn round(&self, x: Vec<f32>) -> Vec<f32> {
        x.into_iter().map(|x| rounded(self.element, x)).collect()
    }

    fn turned(&self, head: &[f32], norm: Option<&Vec<f32>>, position: usize) -> Vec<f32> {
        let half = self.shape.head_dim / 2;
        let head = norm.map_or(head.to_vec(), |norm| normed(head, norm, self.shape.rms_norm_eps));
        let angle = |i: usize| position * half + i % half;
        let turn = |i: usize| {
            let (cos, sin) = (self.angles.0[angle(i)], self.angles.1[angle(i)]);
            if i < half {
                head[i] * cos - head[i + half] * sin
            } else {
                head[i] * cos + head[i - half] * sin
            }
        };
        (0..2 * half).map(turn).collect()
    }

    /// The logits behind the last of `tokens`, as prompts have them: activations are rounded for all matrices.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        self.logits_by(tokens, |_| true)
    }

    /// The same as steps have them: for blocks what comes from a norm is not rounded to 16 bits but put into
    /// fixed point, whose error is not worth counting.
    pub(crate) fn step_logits(&self, tokens: &[u32]) -> Vec<f32> {
        self.logits_by(tokens, |form| form == Form::Dense)
    }

    fn logits_by(&self, tokens: &[u32], is_rounded: impl Fn(Form) -> bool) -> Vec<f32> {
        let input = |x: &[f32], norm: &[f32], form: Form| {
            let x = normed(x, norm, self.shape.rms_norm_eps);
            if is_rounded(form) { self.round(x) } else { x }
        };
        let Shape { hidden_size, num_attention_heads, num_key_value_heads, head_dim, .. } =
            self.shape;
        let group = num_attention_heads / num_key_value_heads;
        let mut cache: Vec<Vec<(Vec<f32>, Vec<f32>)>> = vec![Vec::new(); self.layers.len()];
        let mut x = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            x = self.embedding[token as usize * hidden_size..][..hidden_size].to_vec();
            for (layer, cache) in self.layers.iter().zip(&mut cache) {
                let normed = input(&x, &layer.norms[0], layer.forms[0]);
                let qkv = product(&layer.matrices[0], &normed, layer.biases[0].as_ref());
                let heads: Vec<&[f32]> = qkv.chunks(head_dim).collect();
                let (queries, rest) = heads.split_at(num_attention_heads);
                let (keys, values) = rest.split_at(num_key_value_heads);
                let norms = layer.qk_norm.as_ref();
                let keys = keys.iter().flat_map(|key| {
                    self.round(self.turned(key, norms.map(|norms| &norms.1), position))
                });
                cache.push((keys.collect(), self.round(values.concat())));
                let first = layer.window.map_or(0, |window| (position + 1).saturating_sub(window));
                let mut attended = Vec::new();
                for (head, query) in queries.iter().enumerate() {
                    let query = self.turned(query, norms.map(|norms| &norms.0), position);
                    let at = head / group * head_dim;
                    let score = |(key, _): &(Vec<f32>, Vec<f32>)| {
                        let key = &key[at..at + head_dim];
                        let sum: f64 =
                            query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                        sum / (head_dim as f64).sqrt()
                    };
                    let scores: Vec<f64> = cache[first..].iter().map(score).collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    attended.extend((0..head_dim).map(|i| {
                        let pairs = weights.iter().zip(&cache[first..]);
                        let sum: f64 =
                            pairs.map(|(w, (_, value))| w * f64::from(value[at + i])).sum();
                        (sum / total) as f32
                    }));
                }
                let attended = self.round(attended);
                let o = product(&layer.matrices[1], &attended, layer.biases[1].as_ref());
                x.iter_mut().zip(o).for_each(|(x, o)| *x += o);
                let normed = input(&x, &layer.norms[1], layer.forms[2]);
                let gate_up = product(&layer.matrices[2], &normed, layer.biases[2].as_ref());
                let (gate, up) = gate_up.split_at(self.shape.intermediate_size);
                let gated = gate.iter().zip(up).map(|(&g, &u)| g / (1.0 + (-g).exp()) * u);
                let gated = self.round(gated.collect());
                let down = product(&layer.matrices[3], &gated, layer.biases[3].as_ref());
                x.iter_mut().zip(down).for_each(|(x, down)| *x += down);
            }
        }
        product(&self.head, &input(&x, &self.norm, self.head_form), None)
    }
}
