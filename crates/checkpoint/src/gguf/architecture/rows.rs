//! The order of rows in which llama.cpp keeps Llama's queries and keys.
//!
//! RoPE turns pairs of a head's numbers. Hugging Face pairs number i of the head's first half with
//! number i of its second half; llama.cpp's `llama` pairs neighbours, 2i with 2i + 1. So within the
//! `head_dim` rows of each head, a file's rows are those of Hugging Face in the order
//! 0, d/2, 1, d/2 + 1, … The numbers of a bias are ordered likewise.

/// Where Hugging Face has the row that is number `gguf_row` in a file of [`Change::Interleaved`](super::Change::Interleaved).
#[must_use]
pub fn hf_row(gguf_row: usize, head_dim: usize) -> usize {
    let (head, row) = (gguf_row / head_dim, gguf_row % head_dim);
    head * head_dim + row % 2 * (head_dim / 2) + row / 2
}

/// Where a file of [`Change::Interleaved`](super::Change::Interleaved) has the row that is number `hf_row` to Hugging Face.
#[must_use]
pub fn gguf_row(hf_row: usize, head_dim: usize) -> usize {
    let (head, row) = (hf_row / head_dim, hf_row % head_dim);
    head * head_dim + row % (head_dim / 2) * 2 + row / (head_dim / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_there_and_back() {
        for head_dim in [2, 4, 6, 128] {
            for row in 0..3 * head_dim {
                assert_eq!(gguf_row(hf_row(row, head_dim), head_dim), row, "{head_dim}");
            }
        }
        let rows: Vec<usize> = (0..8).map(|row| hf_row(row, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7]);
    }
}
