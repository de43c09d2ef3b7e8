//! Several builds to one output at once: one wins, and the others say so.

use std::process::{Child, Stdio};

use testkit::gguf::TinyGguf;
use testkit::gguf::tiny::{assert_same, expected};

use crate::dus::{Said, dus, said};
use crate::place::Place;

/// Plans of six layers of four: builds of them have files of the same length, or nearly.
const PLANS: [(&str, [usize; 6]); 3] = [
    ("0..3 + 1..4", [0, 1, 2, 1, 2, 3]),
    ("0..4 + 2..4", [0, 1, 2, 3, 2, 3]),
    ("0..2 + 0..4", [0, 1, 0, 1, 2, 3]),
];

fn args(plan: usize, force: bool) -> Vec<&'static str> {
    let mut args = vec!["build", "base.gguf", "--layers", PLANS[plan].0, "-q", "-o", "out.gguf"];
    args.extend(force.then_some("--force"));
    args
}

#[test]
fn one_wins_and_the_others_say_so() {
    let model = TinyGguf::default();
    let source = model.read();
    for round in 0..12 {
        let place = Place::with(&model);
        let force = round % 2 == 1;
        if round % 4 > 1 {
            // What a killed build left is removed by one of them only.
            std::fs::create_dir(place.path(".out.gguf.dus-partial")).unwrap();
            std::fs::write(place.path(".out.gguf.dus-partial/model.gguf"), "half").unwrap();
        }
        let spawn = |plan: usize| -> Child {
            let mut command = dus(place.dir());
            command.args(args(plan, force)).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let children = [0, 1, 2].map(spawn);
        let end = |(plan, child): (usize, Child)| {
            said(&args(plan, force), &child.wait_with_output().unwrap())
        };
        let ended: Vec<Said> = children.into_iter().enumerate().map(end).collect();

        let built = place.built();
        let written = built.text("dus.layers");
        let winner = PLANS.iter().position(|(plan, _)| *plan == written).unwrap();
        assert_eq!(ended[winner].code, Some(0), "{written}: {ended:#?}");
        assert_same(&built.tensors, &expected(&source.tensors, &PLANS[winner].1));
        place.verified(&["out.gguf"]);
        assert_eq!(place.names(), ["out.gguf"]);
        for said in ended.iter().filter(|said| said.code != Some(0)) {
            assert_eq!(said.code, Some(2), "{said:#?}");
            let reasons = ["another build is writing", "out.gguf exists", "cannot be created"];
            assert!(reasons.iter().any(|reason| said.stderr.contains(reason)), "{said:#?}");
        }
    }
}
