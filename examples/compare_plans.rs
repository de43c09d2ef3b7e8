//! Library use of `dus`: what several plans would make of a model, before anything is written.
//!
//! ```sh
//! cargo run --release -p dus --example compare_plans -- examples/tiny-mistral-32l
//! ```

use std::error::Error;
use std::io::Write as _;

use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Source};

const PLANS: [&str; 4] = ["dus(4)", "dus(8)", "repeat(12, 28)", "interleave(0..24, 8..32)"];

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).ok_or("give the folder of a model of 32 layers")?;
    let mut stdout = std::io::stdout().lock();
    for plan in PLANS {
        let base = Source { spec: model.clone(), relative_to: "".into() };
        let draft = Draft { base: Some(base), layers: Some(plan.to_owned()), ..Draft::default() };
        let blueprint = Blueprint::new(draft.finish()?, LayoutKind::Size, None)?;
        writeln!(
            stdout,
            "{plan:<26} {:>3} layers  J = {:>3}  {:>12} parameters",
            blueprint.plan.num_layers(),
            blueprint.plan.discrepancy(),
            blueprint.splice.num_parameters(),
        )?;
    }
    Ok(())
}
