//! `leankv list`: the kernels, or one kernel's settings.

use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::registry;
use crate::table::table;
use crate::terminal::{self, without_links};

/// Runs the command.
pub(crate) fn run(args: &args::List) -> Result<(), Failure> {
    match &args.kernel {
        Some(name) => one(name, args.json),
        None => all(args.json),
    }
}

fn all(json: bool) -> Result<(), Failure> {
    let kernels: Vec<_> = registry::all();
    if json {
        let list: Vec<_> = kernels
            .iter()
            .map(|k| {
                let settings: Vec<_> = k.fields().iter().map(|f| f.name).collect();
                json!({
                    "kernel": k.name(), "doc": without_links(k.doc().trim()), "settings": settings,
                    "specialisations": k.space().len(),
                })
            })
            .collect();
        println!("{:#}", json!(list));
        return Ok(());
    }
    let mut table = table(["kernel", "what it does", "settings", "specialisations"]);
    for kernel in kernels {
        let settings: Vec<_> = kernel.fields().iter().map(|f| f.name).collect();
        table.add_row([
            kernel.name().to_owned(),
            first_sentence(kernel.doc()),
            settings.join(", "),
            kernel.space().len().to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn one(name: &str, json: bool) -> Result<(), Failure> {
    let kernel = registry::find(name)?;
    let fields = kernel.fields();
    let doc = without_links(kernel.doc().trim());
    if json {
        let list: Vec<_> = fields
            .iter()
            .map(|f| {
                json!({
                    "name": f.name, "type": f.ty, "doc": without_links(f.doc.trim()), "default": f.default,
                    "values": f.values, "tune": f.tune,
                })
            })
            .collect();
        let document = json!({ "kernel": kernel.name(), "doc": doc, "settings": list });
        println!("{document:#}");
        return Ok(());
    }
    println!("{}\n", kernel.name());
    terminal::print(&doc);
    println!();
    let mut table = table(["setting", "type", "default", "declared values", "tuned over", "meaning"]);
    for field in fields {
        table.add_row([
            field.name.to_owned(),
            field.ty.to_string(),
            field.default.clone().unwrap_or_else(|| "none: must be set".to_owned()),
            if field.values.is_empty() { "any".to_owned() } else { field.values.join(", ") },
            if field.tune.is_empty() { "-".to_owned() } else { field.tune.join(", ") },
            first_sentence(field.doc),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// The first sentence of a doc comment, on one line.
fn first_sentence(doc: &str) -> String {
    let doc = without_links(doc);
    let paragraph = doc.trim().split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::first_sentence;

    #[test]
    fn a_summary_is_one_sentence_on_one_line() {
        assert_eq!(first_sentence(" Adds\n two rows. More.\n\nAnd more."), "Adds two rows.");
        assert_eq!(first_sentence("Short"), "Short");
        assert_eq!(first_sentence(""), "");
    }
}
