//! Every fault ends in a whole download or in a clear error, and never in a wrong byte.

use std::fs;
use std::time::{Duration, Instant};

use checkpoint::hub::{Hub, Settings, Watch};
use testkit::Fault;
use testkit::hub_server::Host;

use crate::place::{Place, REPO, Tally, id, model, noise};

const BYTES: usize = 500_000;

/// Downloads a model whose weights meet with `faults`, in one part and in several, and looks whether
/// they arrived, or why not.
#[track_caller]
fn check(faults: &[(Host, usize, Fault)], expected: Result<(), &str>) {
    for part_bytes in [BYTES as u64, BYTES as u64 / 5] {
        let weights = noise(BYTES);
        let place = Place::with_weights(&weights);
        for (host, times, fault) in faults {
            let target = if *host == Host::Hub { "model.safetensors" } else { "/" };
            place.server.fail(*host, target, *times, fault.clone());
        }
        let tally = Tally::default();
        let watch = Watch { progress: &|progress| tally.hear(progress), ..Watch::nobody() };
        let hub = Hub::new(Settings { part_bytes, ..place.settings() }).unwrap();
        let found = hub.find(&id(), watch);
        let said = found.as_ref().map(|_| ()).map_err(ToString::to_string);
        let said = said.map_err(|said| said.replace(place.server.endpoint(), "http://hub"));
        // Which port the second host has is chance.
        let said = said.map_err(|said| match said.split_once("localhost:") {
            Some((before, after)) => {
                format!("{before}storage{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => said,
        });
        assert_eq!(said, expected.map_err(str::to_owned), "{faults:?}");
        let blobs = place.cache().join("models--owner--name/blobs");
        for entry in blobs.read_dir().unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            let right = testkit::hub_server::sha256(&bytes) == name
                || testkit::hub_server::git_hash(&bytes) == name;
            assert!(right || name.ends_with(".incomplete"), "{name} is wrong");
        }
        if let Ok(found) = found {
            let path = found.location.path.join("model.safetensors");
            assert_eq!(fs::read(path).unwrap(), weights);
            let (begun, done) = tally.sums();
            assert_eq!(begun, done, "{faults:?}");
            assert!(place.incomplete().is_empty());
        } else {
            // What a build would read is not there in part.
            let refs = place.cache().join("models--owner--name/refs/main");
            assert!(!refs.exists());
            // The next run, without the fault, ends well.
            place.server.clear_faults();
            place.find().unwrap();
            assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
        }
        place.server.assert_token_stayed();
    }
}

const ALWAYS: usize = usize::MAX;

#[test]
fn connections_that_break() {
    check(&[(Host::Storage, 3, Fault::Drop(40_000))], Ok(()));
    check(&[(Host::Storage, 1, Fault::Drop(0))], Ok(()));
    // Each time there is a little more of it.
    check(&[(Host::Storage, ALWAYS, Fault::Drop(30_000))], Ok(()));
    check(&[(Host::Storage, ALWAYS, Fault::Drop(0))], Err("storage cannot be reached"));
    check(&[(Host::Storage, 2, Fault::Longer(1000))], Ok(()));
    check(&[(Host::Storage, 2, Fault::Shorter(1000))], Ok(()));
}

#[test]
fn servers_without_ranges() {
    check(&[(Host::Storage, ALWAYS, Fault::IgnoreRange)], Ok(()));
    // After a break the whole file comes instead of the rest.
    check(
        &[(Host::Storage, 1, Fault::Drop(40_000)), (Host::Storage, 1, Fault::IgnoreRange)],
        Ok(()),
    );
}

#[test]
fn ranges_that_were_not_asked_for() {
    check(
        &[(Host::Storage, 1, Fault::Drop(40_000)), (Host::Storage, 2, Fault::OtherRange)],
        Ok(()),
    );
}

#[test]
fn files_that_change() {
    check(&[(Host::Storage, 1, Fault::Drop(40_000)), (Host::Storage, 1, Fault::OtherTag)], Ok(()));
    check(
        &[(Host::Hub, ALWAYS, Fault::OtherFile)],
        Err("model.safetensors of owner/name changed while it was read"),
    );
}

#[test]
fn wrong_bytes_of_the_right_length() {
    check(&[(Host::Storage, 1, Fault::WrongBytes)], Ok(()));
    let found = {
        let wrong: Vec<u8> = noise(BYTES).iter().map(|byte| byte ^ 1).collect();
        testkit::hub_server::sha256(&wrong)
    };
    let expected = testkit::hub_server::sha256(&noise(BYTES));
    check(
        &[(Host::Storage, ALWAYS, Fault::WrongBytes)],
        Err(&format!(
            "model.safetensors of owner/name arrived damaged: its hash is {found}, not {expected}"
        )),
    );
}

#[test]
fn wrong_bytes_of_a_small_file() {
    let place = Place::with_weights(b"x");
    place.server.fail(Host::Hub, "resolve", ALWAYS, Fault::WrongBytes);
    let error = place.find().unwrap_err().to_string();
    assert!(error.starts_with("config.json of owner/name arrived damaged"), "{error}");
}

#[test]
fn busy_servers() {
    let busy =
        |status, headers: &[(&'static str, &'static str)]| Fault::Status(status, headers.to_vec());
    for status in [429, 500, 502, 503, 504] {
        check(&[(Host::Hub, 2, busy(status, &[]))], Ok(()));
        check(&[(Host::Storage, 2, busy(status, &[]))], Ok(()));
    }
    let url = "http://hub/owner/name/resolve/COMMIT/model.safetensors answers 500";
    let commit = Place::empty().server.commit(REPO, &model(&noise(BYTES)));
    check(&[(Host::Hub, ALWAYS, busy(500, &[]))], Err(&url.replace("COMMIT", &commit)));
    let host = "asks to be left alone for 77 seconds";
    let place = Place::with_weights(b"x");
    place.server.fail(Host::Hub, "/", 1, busy(429, &[("Retry-After", "77")]));
    let error = place.find().unwrap_err().to_string();
    assert!(error.ends_with(host), "{error}");
    place.server.fail(Host::Hub, "/", 1, busy(429, &[("RateLimit", "\"api\";r=0;t=77")]));
    assert!(place.find().unwrap_err().to_string().ends_with(host));
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let place = Place::with_weights(b"x");
    place.server.fail(Host::Hub, "/tree/", 1, Fault::Status(429, vec![("Retry-After", "1")]));
    let start = Instant::now();
    place.find().unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn addresses_that_are_too_old() {
    // The storage refuses the address that it was given; the hub gives another.
    let weights = noise(BYTES);
    let place = Place::with_weights(&weights);
    let hub =
        Hub::new(Settings { part_bytes: 100_000, connections: 1, ..place.settings() }).unwrap();
    let refuse_later = |progress| {
        if progress == checkpoint::hub::Progress::Done(100_000) {
            place.server.fail(Host::Storage, "/", 1, Fault::Status(403, vec![]));
        }
    };
    let watch = Watch { progress: &refuse_later, ..Watch::nobody() };
    hub.find(&id(), watch).unwrap();
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
}

#[test]
fn servers_that_say_nothing() {
    let place = Place::with_weights(&noise(BYTES));
    place.server.fail(Host::Storage, "/", 1, Fault::Slow(Duration::from_millis(700)));
    let quick = Settings { timeout: Duration::from_millis(300), ..place.settings() };
    Hub::new(quick).unwrap().find(&id(), Watch::nobody()).unwrap();
    // Slow is not silent.
    let place = Place::with_weights(&noise(40_000));
    place.server.fail(Host::Storage, "/", 1, Fault::Slow(Duration::from_millis(50)));
    let quick = Settings { timeout: Duration::from_millis(300), ..place.settings() };
    Hub::new(quick).unwrap().find(&id(), Watch::nobody()).unwrap();
    assert_eq!(place.server.requests_for("Signature").len(), 1);
}

#[track_caller]
fn refused(place: &Place, token: Option<&str>, error: &str, hint: &str) {
    let settings = Settings { token: token.map(str::to_owned), ..place.settings() };
    let found = Hub::new(settings).unwrap().find(&id(), Watch::nobody()).unwrap_err();
    assert_eq!(found.to_string().replace(place.server.endpoint(), "http://hub"), error);
    let found = found.hint().unwrap_or_default();
    assert_eq!(found.replace(place.server.endpoint(), "http://hub"), hint);
    assert!(!place.cache().join("models--owner--name/snapshots").exists());
}

#[test]
fn repositories_that_are_not_shown() {
    let place = Place::empty();
    let absent = "owner/name is not on the hub, or is private";
    refused(
        &place,
        None,
        absent,
        "check the spelling; if it is private, set HF_TOKEN, or log in with `hf auth login`",
    );
    refused(&place, Some("hf_test"), absent, "check the spelling, and that the token may read it");

    let _ = place.server.commit(REPO, &model(b"x"));
    place.server.hide(REPO, "hf_other", false);
    refused(&place, Some("hf_test"), absent, "check the spelling, and that the token may read it");

    place.server.hide(REPO, "hf_other", true);
    let gated = "owner/name is gated: its owner asks users to accept terms first";
    refused(
        &place,
        None,
        gated,
        "accept the terms at http://hub/owner/name, and set HF_TOKEN, or log in with `hf auth login`",
    );
    refused(
        &place,
        Some("hf_test"),
        gated,
        "accept the terms at http://hub/owner/name with the account of this token",
    );
    let allowed = Settings { token: Some("hf_other".to_owned()), ..place.settings() };
    Hub::new(allowed).unwrap().find(&id(), Watch::nobody()).unwrap();
}

#[test]
fn refusals_of_other_kinds() {
    let place = Place::with_weights(b"x");
    let say = |status, headers: &[(&'static str, &'static str)]| {
        place.server.fail(Host::Hub, "/", 1, Fault::Status(status, headers.to_vec()));
    };
    say(401, &[("X-Error-Message", "Invalid credentials in Authorization header")]);
    refused(
        &place,
        Some("hf_bad"),
        "the hub does not accept the token",
        "see HF_TOKEN, or log in again with `hf auth login`",
    );
    say(403, &[("X-Error-Message", "Access to this resource is disabled.")]);
    refused(
        &place,
        None,
        "the hub denies access to owner/name: Access to this resource is disabled.",
        "",
    );
    say(404, &[("X-Error-Code", "RevisionNotFound")]);
    refused(&place, None, "owner/name has no revision main", "");
}

#[test]
fn files_that_the_hub_lists_and_lacks() {
    let place = Place::with_weights(b"x");
    let missing = Fault::Status(404, vec![("X-Error-Code", "EntryNotFound")]);
    place.server.fail(Host::Hub, "model.safetensors", ALWAYS, missing);
    let error = place.find().unwrap_err().to_string();
    assert_eq!(error, "owner/name has no file model.safetensors at main");
}

#[test]
fn nobody_there() {
    for endpoint in ["http://127.0.0.1:1", "http://no-such-host.invalid"] {
        let place = Place::empty();
        let settings = Settings { endpoint: endpoint.to_owned(), ..place.settings() };
        let start = Instant::now();
        let error = Hub::new(settings).unwrap().find(&id(), Watch::nobody()).unwrap_err();
        let host = endpoint.trim_start_matches("http://");
        assert_eq!(error.to_string(), format!("{host} cannot be reached"));
        assert!(std::error::Error::source(&error).is_some());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn answers_that_are_none() {
    let place = Place::with_weights(b"x");
    place.server.fail(Host::Hub, "/revision/", 1, Fault::Status(200, vec![]));
    let error = place.find().unwrap_err().to_string();
    assert!(error.contains("/revision/main answers what the hub would not"), "{error}");
    let bad = Settings { endpoint: "huggingface.co".to_owned(), ..place.settings() };
    let error = Hub::new(bad).unwrap_err().to_string();
    assert_eq!(error, "HF_ENDPOINT is \"huggingface.co\", which is not an http or https address");
}

#[test]
fn listings_that_break_off() {
    let weights = noise(10);
    let place = Place::with_weights(&weights);
    for target in ["/revision/", "/tree/"] {
        place.server.fail(Host::Hub, target, 2, Fault::Drop(20));
    }
    place.find().unwrap();
    assert_eq!(fs::read(place.snapshot().join("tokenizer.json")).unwrap(), b"{}");
}

/// A mirror that hands through what the hub says of the next page.
#[test]
fn listings_whose_next_page_is_elsewhere() {
    let weights = noise(10);
    let place = Place::with_weights(&weights);
    place.server.fail(Host::Hub, "/tree/", 1, Fault::NextPageAt("https://huggingface.co"));
    place.find().unwrap();
    assert_eq!(fs::read(place.snapshot().join("tokenizer.json")).unwrap(), b"{}");

    let place = Place::with_weights(&weights);
    place.server.fail(Host::Hub, "/tree/", 1, Fault::NextPageAt("http://other.invalid"));
    let error = place.find().unwrap_err().to_string();
    assert!(error.contains("a next page elsewhere, http://other.invalid/api/"), "{error}");
    assert!(!error.contains("cursor"), "{error}");
}

#[test]
fn tokens_that_no_request_can_carry() {
    let place = Place::with_weights(b"x");
    for token in ["hf_to ken", "hf_t\u{1}", "hf_t\u{e9}"] {
        let settings = Settings { token: Some(token.to_owned()), ..place.settings() };
        let error = Hub::new(settings).unwrap_err();
        assert_eq!(error.to_string(), "the token holds characters that no token has");
        assert!(error.hint().unwrap().contains("HF_TOKEN"));
    }
}

/// The address of a mirror may hold a password, and a signed one holds a key.
#[test]
fn errors_hold_no_secrets() {
    let place = Place::with_weights(b"x");
    let said = |fault: Fault| {
        place.server.fail(Host::Hub, "/revision/", usize::MAX, fault);
        let endpoint = place.server.endpoint().replace("http://", "http://me:secret@");
        let settings = Settings { endpoint, retries: 1, token: None, ..place.settings() };
        let error = Hub::new(settings).unwrap().find(&id(), Watch::nobody()).unwrap_err();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
        let hint = error.hint().unwrap_or_default();
        let said = causes.map(ToString::to_string).chain([hint]).collect::<Vec<_>>().join("; ");
        assert!(!said.contains("secret"), "{said}");
        place.server.clear_faults();
        said
    };
    assert!(said(Fault::Status(500, vec![])).contains("answers 500"));
    assert!(said(Fault::Status(429, vec![("Retry-After", "9999")])).contains("left alone"));
    let elsewhere = vec![("Location", "ftp://a/b?Signature=secret")];
    assert!(said(Fault::Status(302, elsewhere)).contains("a redirect to \"ftp://a/b\""));
    let gated = vec![("X-Error-Code", "GatedRepo")];
    assert!(said(Fault::Status(403, gated)).contains("accept the terms at http://127"));
}

#[test]
fn names_that_leave_the_folder() {
    let place = Place::empty();
    let _ = place.server.commit(REPO, &[("../../evil", b"x"), ("config.json", b"{}")]);
    let error = place.find().unwrap_err().to_string();
    assert!(error.contains("a file called \"../../evil\""), "{error}");
    assert!(!place.dir.path().join("evil").exists());
}

#[test]
fn repositories_without_weights() {
    let place = Place::empty();
    let _ = place.server.commit(REPO, &[("a-q4.gguf", b"GGUF"), ("config.json", b"{}")]);
    let error = place.find().unwrap_err();
    let expected = "owner/name holds no safetensors, but GGUF files such as a-q4.gguf; fetch the one \
                    you want and give its path";
    assert_eq!(error.to_string(), expected);
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("`hf download owner/name a-q4.gguf` prints a path"), "{hint}");
    assert!(place.server.requests_for("a-q4.gguf").is_empty());
}
