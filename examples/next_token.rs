//! The library `infer`: what comes next, and what comes after that.
//!
//!     cargo run --release -p infer --example next_token -- examples/tiny-mistral-32l 'In the beginning'

use infer::device::Place;
use infer::load::Arithmetic;
use infer::open::{Opened, Spec, Wanted};
use infer::progress::Watch;
use infer::sampling;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> infer::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "examples/tiny-mistral-32l".to_owned());
    let prompt = args.next().unwrap_or_else(|| "In the beginning".to_owned());

    let watch = Watch::nobody();
    let opened = Opened::find(&Spec::new(&model), Wanted::Weights, &watch)?;
    let tokenizer = opened.tokenizer()?;
    let model = opened.load(Arithmetic::Auto, Place::Auto, &watch)?;

    let mut tokens = tokenizer.encode(&prompt)?.ids;
    let mut cache = model.cache(tokens.len() + 5)?;
    for _ in 0..5 {
        // Only what the cache does not hold yet runs through the model.
        let new = &tokens[cache.len()..];
        let hidden = model.forward(new, &mut cache)?; // (new, hidden_size)
        let last = hidden.narrow(0, hidden.dims()[0] - 1, 1)?; // (1, hidden_size)
        let logits = model.finite_logits(&last, |_| tokens.clone())?;
        tokens.push(sampling::best(&logits));
        println!("{}", tokenizer.decode(&tokens)?);
    }
    Ok(())
}
