//! A plan's text as tokens.
//!
//! They are read one at a time because the text of a pattern has other tokens: `0.1` is a number,
//! and two parts of a name.

use super::error::Span;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TokenKind {
    /// Digits.
    Integer,
    /// Digits with a fraction, an exponent or both; the sign is a token of its own.
    Number,
    Word,
    /// What a pattern is made of, between its dots.
    PatternPart,
    Symbol,
    /// What no plan contains.
    Unknown,
    End,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind,
    pub(super) text: &'a str,
    pub(super) span: Span,
}

impl Token<'_> {
    /// The token as an error names it: short, and nothing in it that moves a cursor.
    pub(super) fn found(&self) -> String {
        const MAX_CHARS: usize = 40;
        if self.kind == TokenKind::End {
            return "the end of the plan".to_owned();
        }
        let shown: String = self.text.escape_debug().take(MAX_CHARS).collect();
        let more = if shown.len() < self.text.len() { "…" } else { "" };
        format!("`{shown}{more}`")
    }
}

/// The first token at or after byte `at`.
pub(super) fn token(text: &str, at: usize) -> Token<'_> {
    let at = skip_blanks(text, at);
    let rest = &text[at..];
    let Some(first) = rest.chars().next() else {
        // Right behind the last token, where something is missing.
        let end = text.trim_end().len();
        return Token { kind: TokenKind::End, text: "", span: Span { start: end, end } };
    };
    let (kind, len) = if first.is_ascii_digit() {
        number(rest)
    } else if rest.starts_with("..") {
        (TokenKind::Symbol, 2)
    } else if "+-*/.:,=(){}".contains(first) {
        (TokenKind::Symbol, 1)
    } else if first == '_' || first.is_alphabetic() {
        let len = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        (if rest[..len].is_ascii() { TokenKind::Word } else { TokenKind::Unknown }, len)
    } else {
        (TokenKind::Unknown, first.len_utf8())
    };
    slice(text, kind, at, len)
}

/// The same where a pattern continues: its next part, or if there is none, any other token.
pub(super) fn pattern_part(text: &str, at: usize) -> Token<'_> {
    let start = skip_blanks(text, at);
    let rest = &text[start..];
    let word = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    match if rest.starts_with('*') { 1 } else { word } {
        0 => token(text, at),
        len => slice(text, TokenKind::PatternPart, start, len),
    }
}

fn slice(text: &str, kind: TokenKind, start: usize, len: usize) -> Token<'_> {
    let span = Span { start, end: start + len };
    Token { kind, text: &text[start..span.end], span }
}

fn skip_blanks(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    at + rest.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(rest.len())
}

/// What stands at the front of `text`: `0.5e-3` is a number, and of `0..24` the first is `0`.
fn number(text: &str) -> (TokenKind, usize) {
    let digits_at = |at: usize| text[at..].bytes().take_while(u8::is_ascii_digit).count();
    let integer = digits_at(0);
    let mut len = integer;
    if text[len..].starts_with('.') {
        let fraction = digits_at(len + 1);
        len += if fraction > 0 { 1 + fraction } else { 0 };
    }
    if text[len..].starts_with('e') {
        let sign = usize::from(text[len + 1..].starts_with('-'));
        let exponent = digits_at(len + 1 + sign);
        len += if exponent > 0 { 1 + sign + exponent } else { 0 };
    }
    (if len == integer { TokenKind::Integer } else { TokenKind::Number }, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let mut tokens = vec![token(text, 0)];
        while tokens[tokens.len() - 1].kind != TokenKind::End {
            tokens.push(token(text, tokens[tokens.len() - 1].span.end));
        }
        let texts: Vec<&str> = tokens[..tokens.len() - 1].iter().map(|token| token.text).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_dot_makes_a_fraction_only_before_a_digit() {
        check("0..24", &["0", "..", "24"]);
        check("0.5*23", &["0.5", "*", "23"]);
        check("0.5..2", &["0.5", "..", "2"]);
        check("1.x", &["1", ".", "x"]);
    }

    #[test]
    fn an_exponent_needs_digits() {
        check("0.5e-3 2e4", &["0.5e-3", "2e4"]);
        check("4e:8", &["4", "e", ":", "8"]);
        check("4e-n", &["4", "e", "-", "n"]);
        check("n-8", &["n", "-", "8"]);
    }

    #[test]
    fn blanks_and_line_ends_only_part() {
        check(" 0\t..\r\n4 step 2 ", &["0", "..", "4", "step", "2"]);
        check(" \n", &[]);
    }

    #[test]
    fn what_is_not_ascii_is_kept_whole() {
        check("modèle:0 – 4", &["modèle", ":", "0", "–", "4"]);
    }

    #[test]
    fn long_and_unprintable_tokens_are_named_short() {
        assert_eq!(token("\u{1b}[0m", 0).found(), r"`\u{1b}`");
        assert_eq!(token(&"a".repeat(1000), 0).found(), format!("`{}…`", "a".repeat(40)));
    }
}
