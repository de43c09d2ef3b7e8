//! The language once more: written by its own printer, and read off as simply as it can be.

pub(super) const MODELS: [(&str, usize); 2] = [("x", 6), ("dus", 4)];

/// A layer: what it is, and the operations written for it.
pub(super) type Layer = (String, Vec<usize>);

#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) only_new: bool,
    pub(super) pattern: &'static str,
    pub(super) action: String,
}

#[derive(Debug, Clone)]
pub(super) enum Depth {
    Plain(usize),
    N,
    Minus(usize),
    Over(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Ref {
    pub(super) model: Option<usize>,
    pub(super) start: Depth,
    pub(super) end: Option<(Depth, Option<usize>)>,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Layers(Ref),
    Sum(Vec<Expr>),
    With(Box<Expr>, Vec<Op>),
    Times(Box<Expr>, usize),
    Dus(Depth),
    DusTo(usize),
    Repeat(Depth, Depth),
    Stack(usize),
    Insert(Ref, usize, Vec<Op>),
    Interleave(Box<Expr>, Box<Expr>, Option<usize>),
    Mix(Vec<(f64, Ref)>),
    Slerp(Ref, Ref, f64),
}

impl Depth {
    fn value(&self, n: usize) -> Option<usize> {
        match *self {
            Depth::Plain(layer) => Some(layer),
            Depth::N => Some(n),
            Depth::Minus(k) => n.checked_sub(k),
            Depth::Over(k) => n.is_multiple_of(k).then_some(n / k),
        }
    }

    fn print(&self, tokens: &mut Tokens) {
        match self {
            Depth::Plain(layer) => tokens.put(&layer.to_string()),
            Depth::N => tokens.put("n"),
            Depth::Minus(k) => tokens.all(&["n", "-", &k.to_string()]),
            Depth::Over(k) => tokens.all(&["n", "/", &k.to_string()]),
        }
    }
}

impl Ref {
    fn layers(&self) -> Option<Vec<String>> {
        let (name, n) = MODELS[self.model.unwrap_or(0)];
        let start = self.start.value(n)?;
        let mut layers = Vec::new();
        match &self.end {
            None if matches!(self.start, Depth::N) => return None,
            None => layers.push(start),
            Some((end, step)) => {
                let mut layer = start;
                while layer < end.value(n)? {
                    layers.push(layer);
                    layer += step.unwrap_or(1);
                }
                if end.value(n)? > n {
                    return None;
                }
            }
        }
        let inside = !layers.is_empty() && layers.iter().all(|&layer| layer < n);
        inside.then(|| layers.iter().map(|layer| format!("{name}:{layer}")).collect())
    }

    fn print(&self, tokens: &mut Tokens) {
        if let Some(model) = self.model {
            tokens.all(&[MODELS[model].0, ":"]);
        }
        self.start.print(tokens);
        if let Some((end, step)) = &self.end {
            tokens.put("..");
            end.print(tokens);
            if let Some(step) = step {
                tokens.all(&["step", &step.to_string()]);
            }
        }
    }
}

fn plain(layers: Vec<String>) -> Vec<Layer> {
    layers.into_iter().map(|layer| (layer, vec![])).collect()
}

/// Layers `ranges` of the first model.
fn base(ranges: &[std::ops::Range<usize>]) -> Vec<Layer> {
    plain(ranges.iter().cloned().flatten().map(|layer| format!("x:{layer}")).collect())
}

impl Expr {
    /// The layers, or none if the plan is an error; `num_ops` counts operations as they come.
    pub(super) fn layers(&self, num_ops: &mut usize) -> Option<Vec<Layer>> {
        let n = MODELS[0].1;
        Some(match self {
            Expr::Layers(layers) => plain(layers.layers()?),
            Expr::Sum(parts) => {
                let mut sum = vec![];
                for part in parts {
                    sum.extend(part.layers(num_ops)?);
                }
                sum
            }
            Expr::With(inner, ops) => {
                let mut layers = inner.layers(num_ops)?;
                let first = *num_ops;
                *num_ops += ops.len();
                for (_, written) in &mut layers {
                    written.extend(first..*num_ops);
                }
                layers
            }
            Expr::Times(inner, times) => {
                let layers = inner.layers(num_ops)?;
                (0..*times).flat_map(|_| layers.clone()).collect()
            }
            Expr::Dus(m) => {
                let m = m.value(n)?;
                if 2 * m > n {
                    return None;
                }
                base(&[0..n - m, m..n])
            }
            Expr::DusTo(s) => {
                let m = (0..=n / 2).find(|m| 2 * (n - m) == *s)?;
                base(&[0..n - m, m..n])
            }
            Expr::Repeat(i, j) => {
                let (i, j) = (i.value(n)?, j.value(n)?);
                if i > j || j > n || i == n || j == 0 {
                    return None;
                }
                base(&[0..j, i..n])
            }
            Expr::Stack(times) => base(&vec![0..n; *times]),
            Expr::Insert(range, every, ops) => {
                let first = *num_ops;
                *num_ops += ops.len();
                let mut layers = vec![];
                for (place, layer) in range.layers()?.into_iter().enumerate() {
                    layers.push((layer.clone(), vec![]));
                    if (place + 1) % every == 0 {
                        layers.push((layer, (first..*num_ops).collect()));
                    }
                }
                layers
            }
            Expr::Interleave(a, b, group) => {
                let (a, b) = (a.layers(num_ops)?, b.layers(num_ops)?);
                let group = group.unwrap_or(1);
                if a.len() != b.len() {
                    return None;
                }
                let mut layers = vec![];
                for start in (0..a.len()).step_by(group) {
                    let end = a.len().min(start + group);
                    layers.extend_from_slice(&a[start..end]);
                    layers.extend_from_slice(&b[start..end]);
                }
                layers
            }
            Expr::Mix(terms) => {
                let sources: Option<Vec<_>> = terms.iter().map(|t| t.1.layers()).collect();
                let sources = sources?;
                if sources.iter().any(|layers| layers.len() != sources[0].len()) {
                    return None;
                }
                let made = |j: usize| {
                    let terms = terms.iter().zip(&sources);
                    let terms = terms.map(|((weight, _), s)| format!("{weight:?}*{}", s[j]));
                    (format!("mix {}", terms.collect::<Vec<_>>().join(" ")), vec![])
                };
                (0..sources[0].len()).map(made).collect()
            }
            Expr::Slerp(a, b, t) => {
                let (a, b) = (a.layers()?, b.layers()?);
                if a.len() != b.len() {
                    return None;
                }
                a.iter().zip(b).map(|(a, b)| (format!("slerp {a} {b} {t:?}"), vec![])).collect()
            }
        })
    }

    /// The operations in the order of the text.
    pub(super) fn ops(&self) -> Vec<Op> {
        match self {
            Expr::Sum(parts) => parts.iter().flat_map(Expr::ops).collect(),
            Expr::With(inner, ops) => [inner.ops(), ops.clone()].concat(),
            Expr::Times(inner, _) => inner.ops(),
            Expr::Insert(_, _, ops) => ops.clone(),
            Expr::Interleave(a, b, _) => [a.ops(), b.ops()].concat(),
            _ => vec![],
        }
    }

    /// At the top and in parentheses: `a + b`.
    pub(super) fn print_plan(&self, tokens: &mut Tokens) {
        match self {
            Expr::Sum(parts) => tokens.list(parts, "+", Expr::print_segment),
            _ => self.print_segment(tokens),
        }
    }

    /// `term{ops}*2`
    fn print_segment(&self, tokens: &mut Tokens) {
        match self {
            Expr::Times(inner, times) => {
                inner.print_with(tokens);
                tokens.all(&["*", &times.to_string()]);
            }
            _ => self.print_with(tokens),
        }
    }

    fn print_with(&self, tokens: &mut Tokens) {
        match self {
            Expr::With(inner, ops) => {
                inner.print_term(tokens);
                print_ops(ops, tokens);
            }
            _ => self.print_term(tokens),
        }
    }

    fn print_term(&self, tokens: &mut Tokens) {
        match self {
            Expr::Layers(layers) => return layers.print(tokens),
            Expr::Sum(_) | Expr::With(..) | Expr::Times(..) => {
                tokens.put("(");
                self.print_plan(tokens);
            }
            Expr::Dus(m) => {
                tokens.all(&["dus", "("]);
                m.print(tokens);
            }
            Expr::DusTo(s) => tokens.all(&["dus", "(", "s", "=", &s.to_string()]),
            Expr::Repeat(i, j) => {
                tokens.all(&["repeat", "("]);
                tokens.list(&[i, j], ",", |layer, tokens| layer.print(tokens));
            }
            Expr::Stack(times) => tokens.all(&["stack", "(", &times.to_string()]),
            Expr::Insert(range, every, ops) => {
                tokens.all(&["insert", "("]);
                range.print(tokens);
                tokens.all(&[",", "every", "=", &every.to_string(), ",", "copy"]);
                print_ops(ops, tokens);
            }
            Expr::Interleave(a, b, group) => {
                tokens.all(&["interleave", "("]);
                tokens.list(&[a, b], ",", |part, tokens| part.print_segment(tokens));
                if let Some(group) = group {
                    tokens.all(&[",", &group.to_string()]);
                }
            }
            Expr::Mix(terms) => {
                tokens.all(&["mix", "("]);
                tokens.list(terms, ",", |(weight, layers), tokens| {
                    tokens.number(*weight);
                    tokens.put("*");
                    layers.print(tokens);
                });
            }
            Expr::Slerp(a, b, t) => {
                tokens.all(&["slerp", "("]);
                tokens.list(&[a, b], ",", |layers, tokens| layers.print(tokens));
                tokens.put(",");
                tokens.number(*t);
            }
        }
        tokens.put(")");
    }
}

fn print_ops(ops: &[Op], tokens: &mut Tokens) {
    if ops.is_empty() {
        return;
    }
    tokens.put("{");
    tokens.list(ops, ",", |op, tokens| {
        if op.only_new {
            tokens.put("new");
        }
        let parts: Vec<&str> = op.pattern.split('.').collect();
        tokens.list(&parts, ".", |part, tokens| tokens.put(part));
        tokens.put(":");
        for word in op.action.split(' ') {
            tokens.put(word);
        }
    });
    tokens.put("}");
}

/// A plan's text, token by token.
#[derive(Default)]
pub(super) struct Tokens(Vec<String>);

impl Tokens {
    fn put(&mut self, token: &str) {
        self.0.push(token.to_owned());
    }

    fn all(&mut self, tokens: &[&str]) {
        for token in tokens {
            self.put(token);
        }
    }

    fn number(&mut self, number: f64) {
        if number.is_sign_negative() {
            self.put("-");
        }
        self.put(&format!("{:?}", number.abs()));
    }

    fn list<T>(&mut self, items: &[T], between: &str, print: impl Fn(&T, &mut Tokens)) {
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.put(between);
            }
            print(item, self);
        }
    }

    /// Joined with these blanks in turn, where none is needed.
    pub(super) fn join(&self, blanks: &[&str]) -> String {
        let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let mut text = String::new();
        for (token, blank) in self.0.iter().zip(blanks.iter().cycle()) {
            let touch = in_word(text.chars().last()) && in_word(token.chars().next());
            text += if touch && blank.is_empty() { " " } else { blank };
            text += token;
        }
        text
    }
}
