//! The statistics part of `leankv calibrate`.

use std::path::{Path, PathBuf};

use leankv_model::settings::Settings;
use leankv_model::statistics::{self, Statistics};

use crate::args;
use crate::eval::{bar, show};
use crate::failure::{Failure, at_path};
use crate::language::{Loaded, failure, load_alone};

/// Tokens of a piece of text that the model reads twice.
const PIECE: usize = 1024;
/// Tokens below which a probe has little to learn from: it has 132 weights for a head dim of 64.
const ENOUGH: usize = 1000;
/// Pieces of each text.
const PIECES: usize = 2;

/// What is read besides `--text` where nothing is named, if it is there.
const ALSO: &str = "data/code.txt";

/// Whether a file of settings can be written, before anything is measured for it.
pub(crate) fn check_writable(settings: &Path) -> Result<(), Failure> {
    let folder = settings.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let what = format!("{}: there is no such folder", folder.display());
        return Err(Failure::usage(what).help("make it, or name another file with `--settings`"));
    }
    if let Err(error) = leankv_runtime::staged_in(folder.unwrap_or(Path::new("."))) {
        let what = format!("{}: nothing can be written beside it: {error}", settings.display());
        return Err(Failure::machine(what).help("name a file in another folder with `--settings`"));
    }
    Ok(())
}

/// Measures a model's statistics and keeps them beside the file of settings.
pub(crate) fn statistics(args: &args::Calibrate) -> Result<(), Failure> {
    check_writable(&args.settings)?;
    let Loaded { name, model, tokenizer, .. } = load_alone(&args.on.model, args.on.weights.form())?;
    let also = match args.also.is_empty() && Path::new(ALSO).exists() {
        true => vec![PathBuf::from(ALSO)],
        false => args.also.clone(),
    };
    let files: Vec<&PathBuf> = std::iter::once(&args.on.text).chain(&also).collect();
    let mut pieces = Vec::new();
    for file in &files {
        let bytes = std::fs::read(file)
            .map_err(at_path(file))
            .map_err(|f| f.help("name a text with `--text`, and one of another kind with `--also`"))?;
        let tokens = tokenizer.encode(&String::from_utf8_lossy(&bytes), false).map_err(Failure::machine)?;
        let skip = if *file == &args.on.text { args.on.skip.min(tokens.len()) } else { 0 };
        let tokens = &tokens[skip..];
        if tokens.len() <= statistics::LEFT_OUT {
            let what = format!("{}: {} tokens are too few for statistics", file.display(), tokens.len());
            return Err(Failure::usage(what).help("take a longer text"));
        }
        let piece = PIECE.min(model.config().context / 2).min(tokens.len());
        pieces.extend(tokens.chunks_exact(piece).take(PIECES).map(<[u32]>::to_vec));
    }
    let read: usize = pieces.iter().map(Vec::len).sum();
    if read < ENOUGH {
        eprintln!(
            "warning: {read} tokens are few: below {ENOUGH} a probe may do more harm than none; take longer texts"
        );
    }
    let texts: Vec<&[u32]> = pieces.iter().map(Vec::as_slice).collect();
    let bar = bar("pieces of text", texts.len() as u64);
    let progress = &mut |done, all| show(&bar, done, all);
    let found = Statistics::measure(&model, &texts, progress);
    bar.finish_and_clear();
    let found = found.map_err(failure)?;
    let path = statistics::path_of(&args.settings, &name);
    found.write(&path, model.config()).map_err(Failure::machine)?;
    // Whoever names the file later finds it, without thresholds too.
    if !args.settings.exists() {
        Settings::default().write(&args.settings).map_err(Failure::machine)?;
    }
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    println!(
        "{name}: means, and a probe for priors, of {} tokens of {}. Written to {}",
        read,
        files.join(", "),
        path.display()
    );
    Ok(())
}
