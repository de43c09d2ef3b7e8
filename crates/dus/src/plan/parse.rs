//! From a plan's text to its syntax: a function for each rule of the grammar.

use super::error::{FUNCTIONS, Fault, MAX_NESTING, PlanErrorKind, Span, Spanned};
use super::lex::{self, Token, TokenKind};
use super::ops::{Action, Pattern, TensorOp};
use super::syntax::{Depth, LayerExpr, Overlap, Reference, SegmentExpr, Term};

type Result<T> = std::result::Result<T, Fault>;

pub(super) fn parse(text: &str) -> Result<Vec<Spanned<SegmentExpr>>> {
    let mut parser =
        Parser { text, token: lex::token(text, 0), last: Span { start: 0, end: 0 }, nesting: 0 };
    let segments = parser.plan()?;
    match parser.token.kind {
        TokenKind::End => Ok(segments),
        _ => Err(parser.expected("`+` or the end of the plan")),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// The next token.
    token: Token<'a>,
    /// Where the token before it stood.
    last: Span,
    nesting: usize,
}

impl<'a> Parser<'a> {
    /// `segment { "+" segment }`
    fn plan(&mut self) -> Result<Vec<Spanned<SegmentExpr>>> {
        let mut segments = vec![self.segment()?];
        while self.eat("+") {
            segments.push(self.segment()?);
        }
        Ok(segments)
    }

    /// `term [ "{" ops "}" ] [ "*" count ]`
    fn segment(&mut self) -> Result<Spanned<SegmentExpr>> {
        let start = self.token.span;
        if self.nesting == MAX_NESTING {
            return Err(PlanErrorKind::NestedTooDeeply.at(start));
        }
        self.nesting += 1;
        let term = self.term()?;
        self.nesting -= 1;
        let ops = self.braces()?;
        let times =
            if self.eat("*") { self.count()? } else { Spanned { node: 1, span: self.last } };
        Ok(Spanned { node: SegmentExpr { term, ops, times }, span: start.to(self.last) })
    }

    /// `ref | "(" plan ")" | function "(" … ")"`
    fn term(&mut self) -> Result<Term> {
        if self.eat("(") {
            let segments = self.plan()?;
            if !self.eat(")") {
                return Err(self.expected("`+` or `)`"));
            }
            return Ok(Term::Group(segments));
        }
        if self.token.kind != TokenKind::Word {
            return Ok(Term::Layers(self.reference()?));
        }
        let word = self.token;
        match lex::token(self.text, word.span.end).text {
            "(" => self.function(word),
            ":" => Ok(Term::Layers(self.reference()?)),
            _ if FUNCTIONS.contains(&word.text) => {
                self.advance();
                Err(self.expected("`(`"))
            }
            _ => Ok(Term::Layers(self.reference()?)),
        }
    }

    fn function(&mut self, name: Token<'a>) -> Result<Term> {
        if !FUNCTIONS.contains(&name.text) {
            return Err(PlanErrorKind::UnknownFunction { name: name.text.to_owned() }.at(name.span));
        }
        self.advance();
        self.expect("(")?;
        let term = match name.text {
            "dus" => Term::Dus(self.overlap()?),
            "repeat" => {
                let from = self.layer()?;
                self.expect(",")?;
                Term::Repeat { from, to: self.layer()? }
            }
            "stack" => Term::Stack(self.count()?),
            "insert" => {
                let range = self.reference()?;
                self.expect(",")?;
                self.expect("every")?;
                self.expect("=")?;
                let every = self.count()?.node;
                self.expect(",")?;
                self.expect("copy")?;
                Term::Insert { range, every, ops: self.braces()? }
            }
            "interleave" => {
                let first = self.segment()?;
                self.expect(",")?;
                let parts = Box::new([first, self.segment()?]);
                let group = if self.eat(",") { self.count()?.node } else { 1 };
                Term::Interleave { parts, group }
            }
            "mix" => {
                let mut terms = vec![self.mixed()?];
                while self.eat(",") {
                    terms.push(self.mixed()?);
                }
                Term::Mix(terms)
            }
            _ => {
                let from = self.reference()?;
                self.expect(",")?;
                let to = self.reference()?;
                self.expect(",")?;
                Term::Slerp { from, to, t: self.number()?.node }
            }
        };
        self.expect(")")?;
        Ok(term)
    }

    /// `layer | "s" "=" count`
    fn overlap(&mut self) -> Result<Spanned<Overlap>> {
        if self.token.text != "s" {
            let drop = self.layer()?;
            return Ok(Spanned { span: drop.span, node: Overlap::Drop(drop) });
        }
        let start = self.token.span;
        self.advance();
        self.expect("=")?;
        let target = self.count()?.node;
        Ok(Spanned { node: Overlap::Target(target), span: start.to(self.last) })
    }

    /// `number "*" ref`
    fn mixed(&mut self) -> Result<(f64, Spanned<Reference>)> {
        let weight = self.number()?.node;
        self.expect("*")?;
        Ok((weight, self.reference()?))
    }

    /// `[ model ":" ] layer [ ".." layer [ "step" count ] ]`
    fn reference(&mut self) -> Result<Spanned<Reference>> {
        let first = self.token.span;
        let model = self.model()?;
        let start = self.layer()?;
        let mut reference = Reference { model, start, end: None, step: 1 };
        if self.eat("..") {
            reference.end = Some(self.layer()?);
            if self.eat("step") {
                reference.step = self.count()?.node;
            }
        } else if start.node == Depth::N {
            return Err(PlanErrorKind::NumberOfLayersAsLayer.at(start.span));
        }
        Ok(Spanned { node: reference, span: first.to(self.last) })
    }

    fn model(&mut self) -> Result<Option<Spanned<String>>> {
        if !self.names_a_model() {
            return Ok(None);
        }
        let Token { text: name, span, .. } = self.token;
        if name == "n" {
            return Err(PlanErrorKind::ModelNamedN.at(span));
        }
        self.advance();
        self.expect(":")?;
        Ok(Some(Spanned { node: name.to_owned(), span }))
    }

    fn names_a_model(&self) -> bool {
        self.token.kind == TokenKind::Word && lex::token(self.text, self.token.span.end).text == ":"
    }

    /// `integer | "n" | "n" "-" integer | "n" "/" integer`
    fn layer(&mut self) -> Result<LayerExpr> {
        let start = self.token.span;
        let node = if self.eat("n") {
            if self.eat("-") {
                Depth::NMinus(self.integer("an integer")?.node)
            } else if self.eat("/") {
                Depth::NOver(self.count()?.node)
            } else {
                Depth::N
            }
        } else {
            Depth::Number(self.integer("a layer")?.node)
        };
        Ok(Spanned { node, span: start.to(self.last) })
    }

    /// `[ "{" op { "," op } "}" ]`
    fn braces(&mut self) -> Result<Vec<Spanned<TensorOp>>> {
        let mut ops = Vec::new();
        if self.eat("{") {
            ops.push(self.op()?);
            while self.eat(",") {
                ops.push(self.op()?);
            }
            if !self.eat("}") {
                return Err(self.expected("`,` or `}`"));
            }
        }
        Ok(ops)
    }

    /// `[ "new" ] pattern ":" action`, with the span of the pattern.
    fn op(&mut self) -> Result<Spanned<TensorOp>> {
        let next = lex::token(self.text, self.token.span.end);
        // `new` may also be a part of a tensor's name.
        let only_new = self.token.text == "new" && next.text != ":" && next.text != ".";
        if only_new {
            self.advance();
        }
        let start = self.token.span;
        let mut parts = vec![self.pattern_part()?];
        while self.eat(".") {
            parts.push(self.pattern_part()?);
        }
        let span = start.to(self.last);
        self.expect(":")?;
        let op = TensorOp { pattern: Pattern { parts }, only_new, action: self.action()? };
        Ok(Spanned { node: op, span })
    }

    /// `[A-Za-z0-9_]+ | "*"`
    fn pattern_part(&mut self) -> Result<String> {
        let part = lex::pattern_part(self.text, self.token.span.start);
        if part.kind != TokenKind::PatternPart {
            return Err(self.expected("a part of a tensor's name or `*`"));
        }
        self.last = part.span;
        self.token = lex::token(self.text, part.span.end);
        Ok(part.text.to_owned())
    }

    /// `"zero" | "scale" number | "noise" number [ "seed" "=" integer ]`
    fn action(&mut self) -> Result<Action> {
        if self.eat("zero") {
            Ok(Action::Zero)
        } else if self.eat("scale") {
            Ok(Action::Scale(self.number()?.node))
        } else if self.eat("noise") {
            let sigma = self.number()?;
            if sigma.node < 0.0 {
                return Err(PlanErrorKind::NegativeNoise { sigma: sigma.node }.at(sigma.span));
            }
            let seed = if self.eat("seed") {
                self.expect("=")?;
                self.integer("an integer")?.node
            } else {
                0
            };
            Ok(Action::Noise { sigma: sigma.node, seed })
        } else {
            Err(self.expected("`zero`, `scale` or `noise`"))
        }
    }

    fn count(&mut self) -> Result<Spanned<usize>> {
        let count = self.integer("a count")?;
        match count.node {
            0 => Err(PlanErrorKind::ZeroCount.at(count.span)),
            _ => Ok(count),
        }
    }

    fn integer<T: std::str::FromStr>(&mut self, expected: &str) -> Result<Spanned<T>> {
        let token = self.token;
        if token.kind != TokenKind::Integer {
            return Err(self.expected(expected));
        }
        self.advance();
        match token.text.parse() {
            Ok(node) => Ok(Spanned { node, span: token.span }),
            Err(_) => Err(PlanErrorKind::NumberTooLarge { found: token.found() }.at(token.span)),
        }
    }

    /// A finite number.
    fn number(&mut self) -> Result<Spanned<f64>> {
        let start = self.token.span;
        let sign = if self.eat("-") { -1.0 } else { 1.0 };
        let token = self.token;
        if !matches!(token.kind, TokenKind::Integer | TokenKind::Number) {
            return Err(self.expected("a number"));
        }
        self.advance();
        match token.text.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                Ok(Spanned { node: sign * number, span: start.to(token.span) })
            }
            _ => Err(PlanErrorKind::NumberTooLarge { found: token.found() }.at(token.span)),
        }
    }

    fn advance(&mut self) {
        self.last = self.token.span;
        self.token = lex::token(self.text, self.last.end);
    }

    fn eat(&mut self, text: &str) -> bool {
        let there = self.token.text == text;
        if there {
            self.advance();
        }
        there
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        if self.eat(text) { Ok(()) } else { Err(self.expected(&format!("`{text}`"))) }
    }

    fn expected(&self, expected: &str) -> Fault {
        let (expected, found) = (expected.to_owned(), self.token.found());
        PlanErrorKind::Unexpected { expected, found }.at(self.token.span)
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::Plan;

    /// `text` and the canonical form that it prints as.
    #[track_caller]
    fn check(text: &str, canonical: &str) {
        let plan = Plan::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plan.to_string(), canonical);
        assert_eq!(Plan::parse(canonical).unwrap(), plan);
    }

    #[test]
    fn every_line_of_the_design_prints_as_itself() {
        for text in [
            "0..24 + 8..32",
            "dus(8)",
            "dus(s=48)",
            "repeat(12, 28)",
            "stack(4)",
            "insert(0..n, every=4, copy{o_proj: zero, down_proj: zero})",
            "0..8 + (8..16)*2 + (16..24)*2 + 24..32",
            "interleave(0..24, 8..32)",
            "x:0..16 + e:8..24 + x:17..32",
            "24..32{*: scale 0.5}",
            "dus(8){new o_proj: scale 0.5, new down_proj: scale 0.5}",
            "mix(0.5*23, 0.5*8)",
            "slerp(23, 8, 0.5)",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn blanks_and_line_ends_stand_between_tokens() {
        check("\n 0 .. 24\r\n\t+ 8..32 \n", "0..24 + 8..32");
        check("x : 0..n - 8{mlp . * :zero}*2", "x:0..n-8{mlp.*: zero}*2");
        check("mix(- 0.5 * x:1,1*y:0..n/2 step 2)", "mix(-0.5*x:1, 1*y:0..n/2 step 2)");
    }

    #[test]
    fn what_is_taken_for_granted_is_not_printed() {
        check("0..8 step 1*1", "0..8");
        check("interleave(0..2, 2..4, 1)", "interleave(0..2, 2..4)");
        check("0{a: noise 1.0 seed=0}", "0{a: noise 1}");
        check("(0)", "(0)");
    }

    #[test]
    fn numbers_are_read_exactly() {
        check("0{a: scale 0.5e-3, b: scale 2e3}", "0{a: scale 5e-4, b: scale 2e3}");
        check(
            "0{a: noise 0.1 seed=18446744073709551615}",
            "0{a: noise 0.1 seed=18446744073709551615}",
        );
        check("slerp(0, 1, -1.25)", "slerp(0, 1, -1.25)");
    }

    #[test]
    fn a_pattern_has_its_own_tokens() {
        check("0{experts.0.1.w: zero, 3d.2e3: zero}", "0{experts.0.1.w: zero, 3d.2e3: zero}");
        check("0{*.*: zero, new *: zero}", "0{*.*: zero, new *: zero}");
        check(
            "0{new: zero, new.a: zero, new new: zero}",
            "0{new: zero, new.a: zero, new new: zero}",
        );
        check("0{zero: zero, scale: scale 2}", "0{zero: zero, scale: scale 2}");
    }

    #[test]
    fn a_model_may_have_the_name_of_a_word() {
        check("dus:0..4 + step:1..n step 2 + e:8", "dus:0..4 + step:1..n step 2 + e:8");
        check("mix(0.5*e:8, 1*mix:0)", "mix(0.5*e:8, 1*mix:0)");
    }

    #[test]
    fn braces_and_factors_bind_to_the_term_before_them() {
        check("0..4{a: zero}*2 + 4", "0..4{a: zero}*2 + 4");
        check("(0..4*2 + (1 + 2){a: zero}){b: zero}*3", "(0..4*2 + (1 + 2){a: zero}){b: zero}*3");
        check("interleave(0..2*3, (0 + 1)*3, 2)", "interleave(0..2*3, (0 + 1)*3, 2)");
    }

    #[test]
    fn plans_differ_that_mean_other_things() {
        let differ =
            |a: &str, b: &str| assert_ne!(Plan::parse(a).unwrap(), Plan::parse(b).unwrap());
        differ("0..4", "0..5");
        differ("0..n-8", "0..n/8");
        differ("x:0..4", "0..4");
        differ("dus(8)", "dus(s=8)");
        differ("0{a: zero}", "0{new a: zero}");
        differ("0{a: noise 1}", "0{a: noise 1 seed=1}");
        differ("0{a: scale 1}", "0{a: scale -1}");
        differ("0..4 step 2", "0..4*2");
    }
}
