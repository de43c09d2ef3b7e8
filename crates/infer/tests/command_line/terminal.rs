//! `infer chat` on a terminal, which `script` plays.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::infer::{infer, program, tiny};

const PROMPT: &str = "> ";
/// What line editing writes as a line ends.
const ENTERED: &str = "\x1b[?2004l";
const ENTER: &str = "\r";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// Answers that only ^C and a length end.
const OPTIONS: [&str; 4] = ["--logit-bias", "2=-1000", "--max-new-tokens", "120"];

/// A program on a terminal, and what that has shown.
struct Screen {
    script: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    text: String,
    /// All before this was looked at.
    seen: usize,
}

impl Screen {
    /// `None`, and a line that says so, where `script` is not installed.
    fn open(args: &[&str]) -> Option<Self> {
        if !Command::new("script").arg("--version").output().is_ok_and(|said| said.status.success())
        {
            testkit::skipped("`script` is not installed");
            return None;
        }
        let infer = program();
        let args: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
        let call = format!(
            "stty cols 100 rows 30; exec '{}' {}",
            infer.get_program().display(),
            args.join(" ")
        );
        let mut script = Command::new("script");
        script.args(["-qefc", &call, "/dev/null"]).env("TERM", "xterm");
        script.envs(infer.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut stdout) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let (send, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Some(Self { script, keys, shown, text: String::new(), seen: 0 })
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until `is_shown` finds the end of what it looks for in what is new, and returns that.
    #[track_caller]
    fn wait(&mut self, what: &str, is_shown: impl Fn(&str) -> Option<usize>) -> String {
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(end) = is_shown(&self.text[self.seen..]) {
                let shown = self.text[self.seen..self.seen + end].to_owned();
                self.seen += end;
                return shown;
            }
            match self.shown.recv_timeout(until.saturating_duration_since(Instant::now())) {
                // The tiny model's answers are of ASCII.
                Ok(bytes) => self.text += &String::from_utf8_lossy(&bytes).replace('\r', ""),
                Err(error) => panic!(
                    "{what:?} is not shown: {}: {:?}",
                    match error {
                        RecvTimeoutError::Timeout => "a minute has passed",
                        RecvTimeoutError::Disconnected => "the program has ended",
                    },
                    self.text
                ),
            }
        }
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str) -> String {
        self.wait(what, |text| Some(text.find(what)? + what.len()))
    }

    /// Types a line, and waits until it was taken.
    #[track_caller]
    fn enter(&mut self, line: &str) {
        self.press(&format!("{line}{ENTER}"));
        self.wait_for(ENTERED);
    }

    /// The exit code.
    fn end(mut self) -> Option<i32> {
        self.script.wait().unwrap().code()
    }
}

#[test]
fn a_chat_on_a_terminal() {
    let (tiny, dir) = (tiny(), tempfile::tempdir().unwrap());
    let Some(mut screen) = Screen::open(&[&["chat", &tiny], &OPTIONS[..]].concat()) else { return };
    screen.wait_for("/help lists commands; ^C stops an answer, ^D leaves");
    screen.wait_for(PROMPT);

    screen.enter("In the beginning");
    let shown = screen.wait_for(PROMPT);
    let question = ["generate", &tiny, "--chat", "In the beginning", "--json"];
    let answer = infer(&[&question[..], &OPTIONS[..]].concat()).done().json()["text"].clone();
    assert!(shown.contains(answer.as_str().unwrap()), "{answer} is not in {shown:?}");
    assert!(shown.contains("note: cut after 120 tokens\n"), "{shown:?}");

    screen.enter("/stats");
    let shown = screen.wait_for(PROMPT);
    assert!(shown.contains(" tokens of prompt, 0 of them kept from before; "), "{shown:?}");
    assert!(shown.contains("decode 119 tokens at "), "{shown:?}");

    // In the middle of an answer, which the terminal makes a signal of.
    screen.enter("And then?");
    screen.wait("an answer", |text| (text.trim_start().len() >= 8).then_some(text.len()));
    screen.press(CTRL_C);
    screen.wait_for("note: stopped\n");
    screen.wait_for(PROMPT);
    let saved = |screen: &mut Screen, name: &str| -> Value {
        let path = dir.path().join(name);
        screen.enter(&format!("/save {}", path.display()));
        screen.wait_for(PROMPT);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let messages = saved(&mut screen, "stopped");
    assert_eq!(messages.as_array().unwrap().len(), 4, "{messages}");
    assert_eq!(messages[2], json!({ "role": "user", "content": "And then?" }));
    screen.enter("/undo");
    screen.wait_for(PROMPT);

    // At the prompt, where it gives up what was typed.
    screen.press(&format!("never asked{CTRL_C}"));
    screen.wait_for(ENTERED);
    screen.wait_for(PROMPT);
    let expected = json!([
        { "role": "user", "content": "In the beginning" },
        { "role": "assistant", "content": answer },
    ]);
    assert_eq!(saved(&mut screen, "undone"), expected);
    screen.press(CTRL_D);
    assert_eq!(screen.end(), Some(0));
}
