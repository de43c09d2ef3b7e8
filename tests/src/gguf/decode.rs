//! What blocks of the simplest types stand for, as ggml-quants.c has it.

use super::read::GgufTensor;

/// The values of a tensor of F32, F16, `Q8_0` or `Q4_0`.
#[must_use]
pub fn values(tensor: &GgufTensor) -> Vec<f32> {
    let mut values = Vec::new();
    for block in tensor.bytes.chunks_exact(tensor.kind.bytes) {
        match tensor.kind.name {
            "F32" => values.push(f32::from_le_bytes(block.try_into().expect("four bytes"))),
            "F16" => values.push(half(block)),
            "Q8_0" => {
                let scale = half(block);
                values.extend(block[2..].iter().map(|&code| f32::from(code.cast_signed()) * scale));
            }
            "Q4_0" => {
                let scale = half(block);
                let nibble = |code: u8| (f32::from(code) - 8.0) * scale;
                values.extend(block[2..].iter().map(|&byte| nibble(byte & 15)));
                values.extend(block[2..].iter().map(|&byte| nibble(byte >> 4)));
            }
            other => panic!("no values are made of {other}"),
        }
    }
    values
}

/// The F16 in the first two bytes.
fn half(bytes: &[u8]) -> f32 {
    let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa * 2_f32.powi(-24),
        31 => panic!("{bits:04x} is not finite"),
        _ => (1024.0 + mantissa) * 2_f32.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Kind;

    #[test]
    fn blocks_stand_for_what_ggml_says() {
        let tensor = |kind: &str, bytes: Vec<u8>| {
            values(&GgufTensor { kind: Kind::of(kind), shape: vec![32], bytes, begin: 0 })
        };
        assert_eq!(tensor("F16", vec![0, 0x3c, 0, 0xb4, 1, 0]), [1.0, -0.25, 2_f32.powi(-24)]);
        let q8 = tensor("Q8_0", [&[0, 0x38, 255, 127], &[0; 30][..]].concat());
        assert_eq!((q8[0], q8[1], q8.len()), (-0.5, 63.5, 32));
        let q4 = tensor("Q4_0", [&[0, 0x3c, 0xf0], &[0x88; 15][..]].concat());
        assert_eq!((q4[0], q4[16], q4[1], q4.len()), (-8.0, 7.0, 0.0, 32));
    }
}
