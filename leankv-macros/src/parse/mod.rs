//! Reading constructs; each file has a namesake in `generate`.

pub(crate) mod control;
pub(crate) mod derive;
pub(crate) mod device;
pub(crate) mod kernel;
pub(crate) mod spec;

/// Joins allowed names for a message: "`a`, `b` and `c`".
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
