//! The statistics part of `leankv calibrate`.

use leankv_model::statistics::{self, Statistics};
use leankv_runtime::{Compiler, Device};

use crate::args;
use crate::failure::{Failure, at_path};
use crate::language::{Loaded, failure, load};

/// Tokens of a piece of text that the model reads twice.
const PIECE: usize = 1024;
/// Pieces of each text.
const PIECES: usize = 2;

/// Measures a model's statistics and keeps them beside the file of settings.
pub(crate) fn statistics(args: &args::Calibrate, compiler: &Compiler) -> Result<(), Failure> {
    let Loaded { name, model, tokenizer, .. } = load(&args.on.model, args.on.weights.form(), &args.settings)?;
    let piece = PIECE.min(model.config().context / 2);
    let mut pieces = Vec::new();
    for file in std::iter::once(&args.on.text).chain(&args.also) {
        let bytes = std::fs::read(file).map_err(at_path(file))?;
        let tokens = tokenizer.encode(&String::from_utf8_lossy(&bytes), false).map_err(Failure::machine)?;
        let whole: Vec<Vec<u32>> = tokens.chunks_exact(piece).take(PIECES).map(<[u32]>::to_vec).collect();
        if whole.is_empty() {
            let what =
                format!("{}: {} tokens; statistics are of {piece} at least", file.display(), tokens.len());
            return Err(Failure::usage(what).help("take a longer text"));
        }
        pieces.extend(whole);
    }
    let texts: Vec<&[u32]> = pieces.iter().map(Vec::as_slice).collect();
    let bar = indicatif::ProgressBar::new(texts.len() as u64);
    let progress = &mut |done: usize, _: usize| bar.set_position(done as u64);
    let found = Statistics::measure(compiler, &Device::host(), &model, &texts, progress);
    bar.finish_and_clear();
    let found = found.map_err(failure)?;
    let path = statistics::path_of(&args.settings, &name);
    found.write(&path, model.config()).map_err(Failure::machine)?;
    let files: Vec<String> =
        std::iter::once(&args.on.text).chain(&args.also).map(|file| file.display().to_string()).collect();
    println!(
        "{name}: means and priors of {} tokens of {}. Written to {}",
        texts.len() * piece,
        files.join(", "),
        path.display()
    );
    Ok(())
}
