//! The whole text of every error.

use crate::plan::{ModelDepth, Plan, PlanError};

use super::{MAX_LAYERS, MAX_NESTING};

fn base(num_layers: usize) -> Vec<ModelDepth> {
    vec![ModelDepth { name: None, num_layers }]
}

fn x_and_e() -> Vec<ModelDepth> {
    [("x", 80), ("e", 40)]
        .map(|(name, num_layers)| ModelDepth { name: Some(name.to_owned()), num_layers })
        .to_vec()
}

#[track_caller]
fn error(text: &str, models: &[ModelDepth]) -> PlanError {
    Plan::parse(text).and_then(|plan| plan.resolve(models)).expect_err("the plan is accepted")
}

/// The whole error of a plan of one line: its message, and `place`, the line of carets.
#[track_caller]
fn check_for(models: &[ModelDepth], text: &str, message: &str, place: &str) {
    let column = place.len() - place.trim_start().len() + 1;
    let error = error(text, models);
    assert_eq!(error.to_string(), format!("{message} (column {column})\n{text}\n{place}"));
    assert_eq!((error.message().as_str(), error.column()), (message, column));
}

#[track_caller]
fn check(text: &str, message: &str, place: &str) {
    check_for(&base(32), text, message, place);
}

#[test]
fn a_term_is_expected() {
    check("", "expected a layer, found the end of the plan", "^");
    check("* 2", "expected a layer, found `*`", "^");
    check("0..4 + *", "expected a layer, found `*`", "       ^");
    check("0..4 +", "expected a layer, found the end of the plan", "      ^");
    check("0..", "expected a layer, found the end of the plan", "   ^");
    check("0..foo", "expected a layer, found `foo`", "   ^^^");
    check("0.5", "expected a layer, found `0.5`", "^^^");
    check("()", "expected a layer, found `)`", " ^");
    check("n-x", "expected an integer, found `x`", "  ^");
    check("x:*", "expected a layer, found `*`", "  ^");
}

#[test]
fn a_plan_goes_on_or_ends() {
    check("0..4 5", "expected `+` or the end of the plan, found `5`", "     ^");
    check("0..4*2{a: zero}", "expected `+` or the end of the plan, found `{`", "      ^");
    check("0..4..8", "expected `+` or the end of the plan, found `..`", "    ^^");
    check("0 step 2", "expected `+` or the end of the plan, found `step`", "  ^^^^");
    check("0..4)", "expected `+` or the end of the plan, found `)`", "    ^");
    check("(0..4", "expected `+` or `)`, found the end of the plan", "     ^");
    check("0..4 - 2", "expected `+` or the end of the plan, found `-`", "     ^");
}

#[test]
fn functions_take_what_they_take() {
    check(
        "dsu(8)",
        "`dsu` is not a plan function; \
         known: dus, repeat, stack, insert, interleave, mix, slerp",
        "^^^",
    );
    check("dus + 1", "expected `(`, found `+`", "    ^");
    check("dus()", "expected a layer, found `)`", "    ^");
    check("dus(s 8)", "expected `=`, found `8`", "      ^");
    check("stack(n)", "expected a count, found `n`", "      ^");
    check("repeat(12)", "expected `,`, found `)`", "         ^");
    check("insert(0..n, 4)", "expected `every`, found `4`", "             ^");
    check("insert(0..n, every=4, cp)", "expected `copy`, found `cp`", "                      ^^");
    check("interleave(0)", "expected `,`, found `)`", "            ^");
    check("interleave(0, 1, 2, 3)", "expected `)`, found `,`", "                  ^");
    check("mix(23)", "expected `*`, found `)`", "      ^");
    check("mix(x:23)", "expected a number, found `x`", "    ^");
    check("slerp(1, 2)", "expected `,`, found `)`", "          ^");
}

#[test]
fn operations_have_a_pattern_and_an_action() {
    let part = "expected a part of a tensor's name or `*`, found";
    check("0{}", &format!("{part} `}}`"), "  ^");
    check("0{new}", &format!("{part} `}}`"), "     ^");
    check("0{a.: zero}", &format!("{part} `:`"), "    ^");
    check("0{a: zero,}", &format!("{part} `}}`"), "          ^");
    check("0{a zero}", "expected `:`, found `zero`", "    ^^^^");
    check("0{a: half}", "expected `zero`, `scale` or `noise`, found `half`", "     ^^^^");
    check("0{a: scale}", "expected a number, found `}`", "          ^");
    check("0{a: zero 1}", "expected `,` or `}`, found `1`", "          ^");
    check("0{a: noise 1 seed=-1}", "expected an integer, found `-`", "                  ^");
    check(
        "0{a: noise -1}",
        "noise -1 is negative; its strength must be at least 0",
        "           ^^",
    );
}

#[test]
fn numbers_fit_their_types() {
    let huge = "99999999999999999999";
    check(huge, &format!("`{huge}` is too large a number"), &"^".repeat(20));
    check("0{a: scale -1e999}", "`1e999` is too large a number", "            ^^^^^");
    check("0*0", "expected a count of at least 1, found 0", "  ^");
    check("0..4 step 0", "expected a count of at least 1, found 0", "          ^");
    check("0..n/0", "expected a count of at least 1, found 0", "     ^");
    check("0*1.5", "expected a count, found `1.5`", "  ^^^");
}

#[test]
fn n_is_neither_a_model_nor_a_layer() {
    check("n:0..4", "`n` cannot be a model's name; it stands for the number of layers", "^");
    let message = "`n` is the number of layers, not a layer; the last layer is `n-1`";
    check("0..4 + n", message, "       ^");
    check("mix(1*n)", message, "      ^");
}

#[test]
fn models_are_named_with_those_that_exist() {
    check_for(&x_and_e(), "0 + z:0..4", "`z` is not a model; known: x, e", "    ^");
    check("z:0..4", "`z` is not a model; the plan has one base, without a name", "^");
    check_for(&[], "0..4 + 8", "the plan has no model to take layers from", "^^^^^^^^");
}

#[test]
fn layers_are_within_their_model() {
    check("0 + 32", "layer 32 is past the end of the base (n = 32)", "    ^^");
    check("0..33", "range 0..33 reaches past the end of the base (n = 32)", "^^^^^");
    check("0..n-33", "`n-33` is below layer 0 of the base (n = 32)", "   ^^^^");
    check("0..n/3", "`n/3` leaves a remainder in the base (n = 32)", "   ^^^");
    check("8..8", "range 8..8 is empty", "^^^^");
    check("24 .. 8 step 2", "range 24..8 runs backwards", "^^^^^^^^^^^^^^");
    let message = "range 0..41 reaches past the end of `e` (n = 40)";
    check_for(&x_and_e(), "0..41 + e:0..41", message, "        ^^^^^^^");
    check_for(&x_and_e(), "0..e:41", "expected a layer, found `e`", "   ^");
    check_for(&base(0), "stack(2)", "range 0..0 is empty", "^^^^^^^^");
}

#[test]
fn the_presets_say_what_they_need() {
    check("dus(17)", "dus(17) would lose layers of the base (n = 32): m is at most 16", "    ^^");
    let odd = "is out of reach of the base (n = 32): s is even, from 32 to 64";
    check("dus(s=49)", &format!("dus(s=49) {odd}"), "    ^^^^");
    check("dus(s=30)", &format!("dus(s=30) {odd}"), "    ^^^^");
    check("dus(s=66)", &format!("dus(s=66) {odd}"), "    ^^^^");
    let needs = "(n = 32): it needs 0 <= i <= j <= n, i < n and j > 0";
    for (from, to, place) in [
        (28, 12, "       ^^^^^^"),
        (0, 33, "       ^^^^^"),
        (32, 32, "       ^^^^^^"),
        (0, 0, "       ^^^^"),
    ] {
        let message = format!("repeat({from}, {to}) does not fit the base {needs}");
        check(&format!("repeat({from}, {to})"), &message, place);
    }
}

#[test]
fn parts_taken_layer_by_layer_have_one_length() {
    check(
        "interleave(0..24, 8..16)",
        "interleave needs parts of one length, found 24 and 8 layers",
        "                  ^^^^^",
    );
    check(
        "mix(1*0..2, 1*2..5)",
        "mix needs parts of one length, found 2 and 3 layers",
        "              ^^^^",
    );
    check(
        "slerp(0, 2..5, 0.5)",
        "slerp needs parts of one length, found 1 and 3 layers",
        "         ^^^^",
    );
}

#[test]
fn sizes_are_bounded_before_anything_is_allocated() {
    let message = format!("the plan grows past {MAX_LAYERS} layers");
    check("stack(10000000000)", &message, "      ^^^^^^^^^^^");
    check(
        "(0..32)*9999999*2",
        "expected `+` or the end of the plan, found `*`",
        "               ^",
    );
    check("((0..32)*9999)*9999999", &message, "         ^^^^");
    check("0*65536 + 1", &message, "          ^");
    let too_deep = "the base has 65537 layers; at most 65536 are planned";
    check_for(&base(MAX_LAYERS + 1), "0", too_deep, "^");

    let ops = vec!["a: zero"; 65].join(", ");
    let text = format!("0{{{ops}}}*{MAX_LAYERS}");
    assert_eq!(
        error(&text, &base(1)).message(),
        "the plan grows past 4194304 operations and mixed layers"
    );
    // The mix itself is refused at the first term that is too much.
    let text = format!("mix({})", vec!["1*0..n"; 99].join(", "));
    let refused = error(&text, &base(MAX_LAYERS));
    assert_eq!(refused.message(), "the plan grows past 4194304 operations and mixed layers");
    assert_eq!(refused.column(), "mix(".len() + 64 * "1*0..n, ".len() + "1*".len() + 1);

    let terms = vec!["1*0"; 65].join(", ");
    let text = format!("mix({terms})*{MAX_LAYERS}");
    assert_eq!(
        error(&text, &base(1)).message(),
        "the plan grows past 4194304 operations and mixed layers"
    );
}

#[test]
fn the_largest_plans_are_accepted() {
    let num_layers =
        |text: &str| Plan::parse(text).unwrap().resolve(&base(1)).unwrap().num_layers();
    assert_eq!(num_layers("0*65536"), MAX_LAYERS);
    let many = vec!["0"; MAX_LAYERS].join("+");
    assert_eq!(num_layers(&many), MAX_LAYERS);
    let deep = MAX_NESTING - 1;
    assert_eq!(num_layers(&format!("{}0{}", "(".repeat(deep), ")".repeat(deep))), 1);
}

#[test]
fn nesting_is_bounded() {
    let message = "parentheses nest too deeply; at most 64 levels are read";
    for opening in ["(", "interleave("] {
        let error = error(&opening.repeat(100_000), &base(1));
        assert_eq!(error.message(), message);
        assert_eq!(error.column(), 64 * opening.len() + 1);
    }
}

#[test]
fn a_plan_of_several_lines_shows_the_one_that_is_meant() {
    assert_eq!(
        error("0..4 +\n  4..8 + *\n + 2", &base(32)).to_string(),
        "expected a layer, found `*` (line 2, column 10)\n  4..8 + *\n         ^"
    );
    assert_eq!(
        error("0..4 +\r\n\t4\r\n..\r\n40\r\n", &base(32)).to_string(),
        "range 4..40 reaches past the end of the base (n = 32) (line 2, column 2)\n 4\n ^"
    );
    assert_eq!(
        error("0..4\n + \n", &base(32)).to_string(),
        "expected a layer, found the end of the plan (line 2, column 3)\n +\n  ^"
    );
}

#[test]
fn columns_are_characters_and_nothing_moves_the_cursor() {
    check("0..4 – 8", "expected `+` or the end of the plan, found `–`", "     ^");
    check("0 + é:0 + *", "expected a layer, found `é`", "    ^");
    check("0{é: zero}", "expected a part of a tensor's name or `*`, found `é`", "  ^");
    assert_eq!(
        error("0 +\t\u{1b}[31m", &base(32)).to_string(),
        "expected a layer, found `\\u{1b}` (column 5)\n0 +  [31m\n    ^"
    );
}

#[test]
fn operations_that_find_nothing_point_at_their_pattern() {
    let plan = Plan::parse("0..4{a: zero, new self.b: zero}").unwrap();
    let plan = plan.resolve(&base(4)).unwrap();
    assert_eq!(
        plan.op_matches_nothing(0).to_string(),
        "`a` matches no tensor of the layers that it is for (column 6)\n\
         0..4{a: zero, new self.b: zero}\n     ^"
    );
    assert_eq!(
        plan.op_matches_nothing(1).to_string(),
        "`new self.b` has no layer to work on; none of those it is for is new (column 19)\n\
         0..4{a: zero, new self.b: zero}\n                  ^^^^^^"
    );
}
