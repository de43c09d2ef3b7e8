//! Which tokens of a long text are predicted in which window. Numbers only.

use std::ops::Range;

use crate::error::{Error, Result};

/// How a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Windows that overlap; each token behind the first is predicted once.
    Windows {
        /// Positions of a window.
        window: usize,
        /// Tokens that each window after the first predicts.
        stride: usize,
    },
    /// llama.cpp's: chunks side by side, of which the second half is predicted, and no rest.
    Chunks {
        /// Positions of a chunk.
        window: usize,
    },
}

/// A run of the model over a stretch of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The tokens that it sees.
    pub tokens: Range<usize>,
    /// Those of them that it predicts.
    pub predicted: Range<usize>,
    /// Whether BOS stands before its tokens.
    pub bos_before: bool,
    /// Whether BOS stands in place of its first token.
    pub bos_instead: bool,
}

impl Rule {
    /// Cuts a text of `n` tokens; `adds_bos` says whether the model's texts begin with BOS.
    pub fn cut(self, n: usize, adds_bos: bool) -> Result<Vec<Window>> {
        match self {
            Self::Windows { window, stride } => windows(n, window, stride, adds_bos),
            Self::Chunks { window } => chunks(n, window, adds_bos),
        }
    }
}

fn windows(n: usize, window: usize, stride: usize, adds_bos: bool) -> Result<Vec<Window>> {
    if window < 2 {
        let (option, found) = ("--window", window.to_string());
        return Err(Error::OptionValue { option, found, expected: "2 tokens or more" });
    }
    if stride == 0 || stride >= window {
        let (option, found) = ("--stride", stride.to_string());
        return Err(Error::OptionValue {
            option,
            found,
            expected: "from 1 up to less than the window",
        });
    }
    if n < 2 {
        return Err(Error::TooShort { found: n, needed: 2 });
    }
    let mut end = n.min(window);
    let first = Window { tokens: 0..end, predicted: 1..end, bos_before: false, bos_instead: false };
    let mut cut = vec![first];
    while end < n {
        let begin = end;
        end = n.min(begin + stride);
        // As much of the text before as there is room for.
        let start = end + usize::from(adds_bos) - window;
        cut.push(Window {
            tokens: start..end,
            predicted: begin..end,
            bos_before: adds_bos,
            bos_instead: false,
        });
    }
    Ok(cut)
}

fn chunks(n: usize, window: usize, adds_bos: bool) -> Result<Vec<Window>> {
    if window < 4 {
        let (option, found) = ("--window", window.to_string());
        return Err(Error::OptionValue { option, found, expected: "4 tokens or more" });
    }
    // llama.cpp wants two chunks, so that there is something to average.
    if n < 2 * window {
        return Err(Error::TooShort { found: n, needed: 2 * window });
    }
    let chunk = |start: usize| Window {
        tokens: start..start + window,
        predicted: start + window / 2 + 1..start + window,
        bos_before: false,
        bos_instead: adds_bos,
    };
    Ok((0..n / window).map(|i| chunk(i * window)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_behind_the_first_is_predicted_once_with_something_before_it() {
        for (window, stride) in [(2, 1), (7, 3), (7, 6), (8, 4), (100, 50)] {
            for adds_bos in [false, true] {
                for n in 2..60 {
                    let cut = Rule::Windows { window, stride }.cut(n, adds_bos).unwrap();
                    let predicted: Vec<usize> =
                        cut.iter().flat_map(|w| w.predicted.clone()).collect();
                    assert_eq!(predicted, (1..n).collect::<Vec<_>>());
                    for w in &cut {
                        let length = w.tokens.len() + usize::from(w.bos_before);
                        assert!(length <= window, "{w:?}");
                        assert!(w.predicted.start > w.tokens.start || w.bos_before, "{w:?}");
                        assert!(w.predicted.end == w.tokens.end, "{w:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_chunk_predicts_its_second_half() {
        let cut = Rule::Chunks { window: 8 }.cut(17, true).unwrap();
        let predicted: Vec<_> = cut.iter().map(|w| w.predicted.clone()).collect();
        assert_eq!(predicted, [5..8, 13..16]);
        assert!(cut.iter().all(|w| w.bos_instead));
        assert!(Rule::Chunks { window: 8 }.cut(15, true).is_err());
    }
}
