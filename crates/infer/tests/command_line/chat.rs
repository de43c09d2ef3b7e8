//! `infer chat`, and `--chat`.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::tcgetattr;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Dtype, Tensor, raw, weights};

use crate::infer::{Said, infer, infer_with_stdin, program, tiny};

/// The template of upstage/SOLAR-10.7B-Instruct-v1.0.
const SOLAR_TEMPLATE: &str = include_str!("../data/chat/solar.jinja");

/// A random checkpoint of SOLAR's config at a fortieth of its width, with the tiny model's tokenizer
/// and the chat template of SOLAR's Instruct model.
fn solar() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 96, "initializer_range": 0.02,
        "intermediate_size": 336, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": 12, "num_hidden_layers": 48, "num_key_value_heads": 3, "pad_token_id": 2,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.35.2",
        "use_cache": true, "vocab_size": 2048
    });
    raw::write_json(&dir.path().join("config.json"), &config);
    std::fs::copy(Path::new(&tiny()).join("tokenizer.json"), dir.path().join("tokenizer.json"))
        .unwrap();
    let tokenizer_config = json!({ "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>",
        "add_bos_token": true, "chat_template": SOLAR_TEMPLATE });
    raw::write_json(&dir.path().join("tokenizer_config.json"), &tokenizer_config);
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize], offset: f32| {
        tensors.push((name.clone(), Tensor::random(&name, Dtype::F16, shape, offset)));
    };
    add("model.embed_tokens.weight".to_owned(), &[2048, 96], 0.0);
    for layer in 0..48 {
        for (name, shape) in [
            ("self_attn.q_proj", [96, 96]),
            ("self_attn.k_proj", [24, 96]),
            ("self_attn.v_proj", [24, 96]),
            ("self_attn.o_proj", [96, 96]),
            ("mlp.gate_proj", [336, 96]),
            ("mlp.up_proj", [336, 96]),
            ("mlp.down_proj", [96, 336]),
        ] {
            add(format!("model.layers.{layer}.{name}.weight"), &shape, 0.0);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{layer}.{name}.weight"), &[96], 1.0);
        }
    }
    add("model.norm.weight".to_owned(), &[96], 1.0);
    add("lm_head.weight".to_owned(), &[2048, 96], 0.0);
    weights::write(dir.path(), &tensors, None);
    dir
}

#[test]
fn solars_prompt_is_its_template_behind_one_bos() {
    let dir = solar();
    let model = dir.path().to_str().unwrap();
    let question = "What is the square root of 24?";
    let text = format!("### User:\n{question}\n\n### Assistant:\n");
    let ids = |args: &[&str]| {
        infer(&[&["tokens", model], args, &["--json"]].concat()).done().json()["ids"].clone()
    };
    let chat = ids(&["--chat", question]);
    assert_eq!(chat, ids(&[&text]));
    let is_bos = |id: &&Value| **id == json!(1);
    assert_eq!(chat.as_array().unwrap().iter().filter(is_bos).count(), 1);
    assert_eq!(chat[0], 1);
    let system = ids(&["--chat", question, "--system", "Be brief."]);
    assert_eq!(system, ids(&[&format!("### System:\nBe brief.\n\n{text}")]));
    // A template that writes BOS itself gets no other.
    let with_bos = format!("{{{{ bos_token }}}}{SOLAR_TEMPLATE}");
    std::fs::write(dir.path().join("chat_template.jinja"), with_bos).unwrap();
    let written = ids(&["--chat", question]);
    assert_eq!(written.as_array().unwrap().iter().filter(is_bos).count(), 1);
    assert_eq!(written[0], 1);
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();

    let args = ["generate", model, "--chat", question, "--max-length", "40", "--json"];
    let object = infer(&args).done().json();
    assert_eq!(object["prompt_tokens"], chat.as_array().unwrap().len());
    assert_eq!(
        object["ids"].as_array().unwrap().len() + chat.as_array().unwrap().len(),
        40,
        "{object}"
    );
}

#[test]
fn a_model_without_a_template_or_with_one_that_fails() {
    let dir = solar();
    let model = dir.path().to_str().unwrap();
    let path = dir.path().join("tokenizer_config.json");
    let with = |template: Value| {
        let mut config = raw::read_json(&path);
        config["chat_template"] = template;
        raw::write_json(&path, &config);
    };
    with(Value::Null);
    infer(&["generate", model, "--chat", "hi"])
        .refused(&["has no chat template", "hint: a base model goes on with texts"]);
    infer_with_stdin(&["chat", model], "hi\n").refused(&[
        "cannot talk with",
        "no chat template",
        "hint: a base model goes on with texts: infer generate MODEL PROMPT",
    ]);
    with("{{ raise_exception('Only robots may speak') }}".into());
    infer(&["generate", model, "--chat", "hi"])
        .refused(&["the chat template failed: Only robots may speak (line 1)"]);
    with("{% for %}".into());
    infer(&["generate", model, "--chat", "hi"])
        .refused(&["tokenizer_config.json is not read as a chat template"]);
    infer(&["generate", model, "--system", "x", "hi"]).refused(&["--chat"]);
    infer(&["generate", model, "--chat", "--ids", "1"]).refused(&["--ids"]);
}

fn chat(more: &[&str], lines: &str) -> Said {
    let tiny = tiny();
    let args = [&["chat", &tiny, "--max-new-tokens", "12", "--stop", "\n"], more].concat();
    infer_with_stdin(&args, lines).done()
}

#[test]
fn lines_are_turns_that_see_what_was_said_before() {
    let first = infer(&[
        "generate",
        &tiny(),
        "--chat",
        "In the beginning",
        "--max-new-tokens",
        "12",
        "--stop",
        "\n",
        "--json",
    ]);
    let first = first.done().json()["text"].as_str().unwrap().to_owned();
    let said = chat(&[], "In the beginning\n\nAnd then?\n/stats\n");
    let answers: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(answers.len(), 2, "{said:?}");
    assert_eq!(answers[0], first);
    // The second prompt is the first, its answer, and the second question.
    let prompt = format!(
        "### User:\nIn the beginning\n\n### Assistant:\n{first}### User:\nAnd then?\n\n### Assistant:\n"
    );
    let second =
        infer(&["generate", &tiny(), &prompt, "--max-new-tokens", "12", "--stop", "\n", "--json"]);
    let second = second.done().json();
    assert_eq!(answers[1], second["text"].as_str().unwrap());
    let stats = said.stderr.lines().last().unwrap();
    let expected = format!("{} tokens of prompt, ", second["prompt_tokens"]);
    assert!(stats.starts_with(&expected), "{stats}");
    let kept: usize = stats[expected.len()..].split(' ').next().unwrap().parse().unwrap();
    assert!(kept > 20, "{stats}");
}

#[test]
fn commands_change_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let saved = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap()
    };
    let path = |name: &str| dir.path().join(name).display().to_string();
    let said = chat(
        &["--system", "Be brief."],
        &format!(
            "One\nTwo\n/save {}\n/undo\n/save {}\n/regen\n/save {}\n/reset\n/save {}\n/system\n/save {}\n\
             /load {}\nThree\n/save {}\n",
            path("two"),
            path("undone"),
            path("anew"),
            path("reset"),
            path("bare"),
            path("undone"),
            path("loaded")
        ),
    );
    let answers: Vec<&str> = said.stdout.lines().collect();
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let system = message("system", "Be brief.");
    let one = [system.clone(), message("user", "One"), message("assistant", answers[0])];
    let two = [message("user", "Two"), message("assistant", answers[1])];
    assert_eq!(saved("two"), json!([&one[..], &two[..]].concat()));
    assert_eq!(saved("undone"), json!(one));
    // The best tokens are the same again, and from the cache.
    assert_eq!((answers[2], saved("anew")), (answers[0], json!(one)));
    assert_eq!((saved("reset"), saved("bare")), (json!([system]), json!([])));
    let three = [message("user", "Three"), message("assistant", answers[3])];
    assert_eq!(saved("loaded"), json!([&one[..], &three[..]].concat()));
}

#[test]
fn what_cannot_be_done_leaves_the_conversation_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    std::fs::write(&file, r#"[{"role": "user"}]"#).unwrap();
    let long = "word ".repeat(1200);
    let said = chat(
        &[],
        &format!(
            "/undo\n/regen\n/what\n/save\n/load \n/help\n/load {}\n/load /no/such\n{long}\nIn the beginning\n/save {}\n",
            file.display(),
            file.display()
        ),
    );
    for part in [
        "nothing has been asked yet",
        "there is no command /what",
        "/save needs the name of a file",
        "/load needs the name of a file",
        "hint: /help lists them",
        "/regen ",
        "is not a list of messages",
        "missing field `content`",
        "/no/such cannot be read",
        "tokens are more than the 1024 positions",
    ] {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    assert_eq!(said.stdout.lines().count(), 1);
    let saved: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved.as_array().unwrap().len(), 2);
}

#[test]
fn each_answer_has_draws_of_its_own_that_the_seed_repeats() {
    let lines = "In the\n/regen\n";
    let draw = |seed: &str| chat(&["--temperature", "1.4", "--seed", seed], lines).stdout;
    let drawn = draw("3");
    let answers: Vec<&str> = drawn.lines().collect();
    assert_ne!(answers[0], answers[1]);
    assert_eq!(draw("3"), drawn);
    assert_ne!(draw("4"), drawn);
}

#[test]
fn an_interrupt_stops_the_answer_and_not_the_program() {
    let mut child = program()
        .args(["chat", &tiny(), "--logit-bias", "2=-1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"In the beginning\n").unwrap();
    for _ in 0..2 {
        // The first bytes say that an answer is under way.
        stdout.read_exact(&mut [0; 8]).unwrap();
        let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        stdout.read_line(&mut String::new()).unwrap();
        stdin.write_all(b"And then?\n").unwrap();
    }
    stdout.read_exact(&mut [0; 8]).unwrap();
    let sent = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.matches("note: stopped").count(), 2, "{stderr}");
}

/// Reads lines until one has all of `text`.
fn read_until(lines: &mut impl BufRead, text: &str) {
    let mut all = String::new();
    loop {
        let begin = all.len();
        assert!(lines.read_line(&mut all).unwrap() > 0, "{text:?} is missing: {all}");
        if all[begin..].contains(text) {
            return;
        }
    }
}

#[test]
fn a_question_that_is_stopped_before_its_answer_is_taken_back_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let saved = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap()
    };
    let before = json!([
        { "role": "user", "content": "Who?" },
        { "role": "assistant", "content": "He." },
    ]);
    std::fs::write(dir.path().join("before"), before.to_string()).unwrap();
    // BOS is a token without a text: an answer that never begins.
    let mut child = program()
        .args(["chat", &tiny(), "--logit-bias", "1=1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut stop = |question: &str, stderr: &mut BufReader<_>| {
        stdin.write_all(format!("/help\n{question}\n").as_bytes()).unwrap();
        read_until(stderr, "^D leaves");
        std::thread::sleep(Duration::from_millis(300));
        let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        read_until(stderr, "note: stopped");
    };
    stop("In the beginning", &mut stderr);
    read_until(&mut stderr, "note: it has no answer, and is taken back");
    stop(&format!("/stats\n/save {}\n/load {}\n/regen", path("none"), path("before")), &mut stderr);
    read_until(&mut stderr, "note: there is no new answer, and the one before stays");
    stdin.write_all(format!("/save {}\n", path("after")).as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!((saved("none"), saved("after")), (json!([]), before));
}

#[test]
fn the_speed_of_a_stopped_answer_is_told() {
    let mut child = program()
        .args(["chat", &tiny(), "--logit-bias", "2=-1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"In the beginning\n").unwrap();
    stdout.read_exact(&mut [0; 8]).unwrap();
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    stdout.read_line(&mut String::new()).unwrap();
    stdin.write_all(b"/stats\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stats = stderr.lines().find(|line| line.starts_with("stopped: ")).unwrap();
    assert!(
        stats.contains(" tokens of prompt, 0 of them kept") && stats.contains(", decode "),
        "{stats}"
    );
}

#[test]
fn options_that_mean_nothing_are_refused_before_a_question() {
    infer(&["chat", &tiny(), "--top-p", "2"]).refused(&["--top-p is 2, expected from 0 to 1"]);
}

#[test]
fn a_signal_ends_a_program_that_waits() {
    for (name, number) in [("INT", 2), ("TERM", 15)] {
        let mut child = program()
            .args(["chat", &tiny(), "--max-new-tokens", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"In the beginning\n").unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        // After its answer it reads again, very soon.
        std::thread::sleep(Duration::from_millis(300));
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(128 + number));
    }
}

/// A pseudo-terminal: the side that a person types at, and the one that a program sees.
fn pty() -> (OwnedFd, OwnedFd) {
    let person = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&person).unwrap();
    pty::unlockpt(&person).unwrap();
    let path = pty::ptsname(&person, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    (person, rustix::fs::open(path.as_c_str(), flags, Mode::empty()).unwrap())
}

#[test]
fn a_terminal_has_its_modes_back_after_a_signal() {
    let (_person, tty) = pty();
    let before = tcgetattr(&tty).unwrap().local_modes;
    let stdio = || Stdio::from(tty.try_clone().unwrap());
    let mut child = program()
        .args(["chat", &tiny(), "--quiet"])
        .env("TERM", "xterm")
        .stdin(stdio())
        .stdout(stdio())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It reads key by key as soon as it waits for a line.
    let begin = Instant::now();
    while tcgetattr(&tty).unwrap().local_modes == before {
        assert!(begin.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(10));
    }
    let sent = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(tcgetattr(&tty).unwrap().local_modes, before);
}

#[test]
fn the_context_fills_up_and_that_is_said() {
    let tiny = tiny();
    let said =
        infer_with_stdin(&["chat", &tiny, "--logit-bias", "2=-1000"], "In the beginning\n").done();
    assert!(said.stderr.contains("the context is full: the model has 1024 positions"), "{said:?}");
}

/// More positions than any memory holds the keys and values of.
#[cfg(target_os = "linux")]
#[test]
fn a_chat_makes_do_with_the_positions_that_there_is_memory_for() {
    let dir = solar();
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = (1_u64 << 31).into();
    raw::write_json(&path, &config);
    let model = dir.path().to_str().unwrap();
    let said = infer_with_stdin(&["chat", model, "--max-new-tokens", "2"], "hello\n").done();
    let line = said.stderr.lines().find(|line| line.contains("there is memory for")).unwrap();
    assert!(line.ends_with(" of the model's 2147483648 positions"), "{said:#?}");
    // Who asks for all of them is told that they are too many.
    infer(&["generate", model, "hello", "--max-length", "2147483648"])
        .refused(&["on cpu, which has", "fewer positions or sequences, as weights alone take"]);
}
