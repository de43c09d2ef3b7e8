//! Library use of `checkpoint`: where each tensor of a model lies.
//!
//! ```sh
//! cargo run --release -p checkpoint --example list_tensors -- examples/tiny-mistral-32l
//! ```

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use checkpoint::{Checkpoint, hub};

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).ok_or("give the folder of a model, or its hub id")?;
    let checkpoint = Checkpoint::open(&hub::locate(&model, Path::new(""))?.path)?;
    let mut stdout = std::io::stdout().lock();
    for tensor in checkpoint.tensors() {
        let file = &checkpoint.files()[tensor.file].name;
        let (name, dtype, shape) = (&tensor.name, tensor.encoding, &tensor.shape);
        writeln!(stdout, "{name:<50} {dtype} {shape:?}  {file} {:?}", tensor.range)?;
    }
    Ok(())
}
