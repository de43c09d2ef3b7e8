//! Texts at which generation ends.

/// Text that is checked for stop strings as it comes; what might begin one is held back.
#[derive(Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

/// What may be shown of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Passed {
    /// This much, and more may follow.
    Text(String),
    /// This much, and then a stop string stands, which is not part of it.
    Stopped(String),
}

impl StopStrings {
    /// Stops at any of `strings`, none of which is empty.
    #[must_use]
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|string| !string.is_empty()).cloned().collect();
        Self { strings, held: String::new() }
    }

    /// What may be shown now that `text` has come.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let found = self.strings.iter().filter_map(|string| self.held.find(string)).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return Passed::Stopped(std::mem::take(&mut self.held));
        }
        let kept = self.held.split_off(self.held.len() - self.may_begin_one());
        Passed::Text(std::mem::replace(&mut self.held, kept))
    }

    /// What was held back, when no text follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The length of the longest end of the text that a stop string begins with.
    fn may_begin_one(&self) -> usize {
        let begins = |end: &str| self.strings.iter().any(|string| string.starts_with(end));
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.into_iter().find(|end| begins(end)).map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(strings: &[&str], pieces: &[&str], shown: &[&str], stopped: bool) {
        let strings: Vec<String> = strings.iter().map(|&s| s.to_owned()).collect();
        let mut stop = StopStrings::new(&strings);
        let mut found = Vec::new();
        let mut has_stopped = false;
        for piece in pieces {
            match stop.push(piece) {
                Passed::Text(text) => found.push(text),
                Passed::Stopped(text) => {
                    found.push(text);
                    has_stopped = true;
                    break;
                }
            }
        }
        if !has_stopped {
            found.push(stop.finish());
        }
        assert_eq!((found, has_stopped), (shown.iter().map(|&s| s.to_owned()).collect(), stopped));
    }

    #[test]
    fn what_might_begin_a_stop_string_is_held() {
        check(&["END"], &["a E", "N", "D b"], &["a ", "", ""], true);
        check(&["END"], &["a E", "N", "O"], &["a ", "", "ENO", ""], false);
        check(&["END"], &["a EN"], &["a ", "EN"], false);
        check(&["aab"], &["aa", "ab"], &["", "a"], true);
    }

    #[test]
    fn the_earliest_of_several_stops() {
        check(&["###", "\n\n"], &["x\n", "\n### y"], &["x", ""], true);
        check(&["ö…"], &["aö", "…b"], &["a", ""], true);
        check(&[""], &["a", "b"], &["a", "b", ""], false);
    }
}
