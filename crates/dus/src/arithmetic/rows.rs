//! The order of a head's rows in q and k projections, which differs between Hugging Face and GGUF.

use checkpoint::gguf::architecture::{gguf_row, hf_row};

/// An order of the rows of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Hugging Face's: the first halves of all pairs that rotary embeddings turn, then the second.
    Halves,
    /// GGUF's in the `llama` architecture: pair behind pair.
    Pairs,
}

/// How the rows of a tensor move within each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The rows of a head, an even number.
    pub head_rows: usize,
    /// The elements of a row; 1 for a bias.
    pub row_elements: usize,
    /// The order in the source.
    pub from: RowOrder,
    /// The order in the target.
    pub to: RowOrder,
}

impl Rows {
    /// The elements of a head.
    pub(super) fn head_elements(&self) -> usize {
        self.head_rows * self.row_elements
    }

    /// Hugging Face's number of the row that is row `row` of its head in the source.
    pub(super) fn canonical(&self, row: usize) -> usize {
        match self.from {
            RowOrder::Halves => row,
            RowOrder::Pairs => hf_row(row, self.head_rows),
        }
    }

    /// The row of its head in the target that row `row` of the source becomes.
    pub(super) fn target(&self, row: usize) -> usize {
        let row = self.canonical(row);
        match self.to {
            RowOrder::Halves => row,
            RowOrder::Pairs => gguf_row(row, self.head_rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_where_the_converter_puts_them() {
        let rows = |from, to| {
            let rows = Rows { head_rows: 6, row_elements: 1, from, to };
            (0..6).map(|row| rows.target(row)).collect::<Vec<_>>()
        };
        // w.reshape(heads, 2, 3, …).swapaxes(1, 2) puts row 0, 3, 1, 4, 2, 5 one behind the other.
        assert_eq!(rows(RowOrder::Halves, RowOrder::Pairs), [0, 2, 4, 1, 3, 5]);
        assert_eq!(rows(RowOrder::Pairs, RowOrder::Halves), [0, 3, 1, 4, 2, 5]);
        assert_eq!(rows(RowOrder::Pairs, RowOrder::Pairs), [0, 1, 2, 3, 4, 5]);
    }
}
