//! From names on the command line to kernels, specialisations and targets; unknown names list the choices.

use leankv_runtime::Target;
use leankv_runtime::text::{join, suggestion};

use crate::failure::Failure;

/// The targets named on the command line, without repeats.
pub(crate) fn targets(names: &[String]) -> Result<Vec<Target>, Failure> {
    let mut targets = Vec::new();
    for name in names {
        let target = name.parse::<Target>().map_err(Failure::usage)?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// The pairs of `--set key=value`.
pub(crate) fn settings(pairs: &[String]) -> Result<Vec<(String, String)>, Failure> {
    self::pairs("--set", pairs)
}

/// The pairs `key=value` given to an option.
pub(crate) fn pairs(option: &str, pairs: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut out: Vec<(String, String)> = Vec::new();
    for pair in pairs {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage(format_args!("`{option} {pair}` has no value"))
                .help(format_args!("write `{option} key=value`"))
        })?;
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        if out.iter().any(|(other, _)| *other == key) {
            return Err(Failure::usage(format_args!("`{key}` is set twice")));
        }
        out.push((key, value));
    }
    Ok(out)
}

/// The one of `known` called `name`.
pub(crate) fn named<'a, T>(name: &str, known: impl IntoIterator<Item = (&'a str, T)>) -> Result<T, Failure> {
    let mut names = Vec::new();
    for (known_name, value) in known {
        if known_name == name {
            return Ok(value);
        }
        names.push(known_name);
    }
    Err(Failure::usage(format_args!("there is no kernel `{name}`{}", suggestion(name, &names)))
        .help(format_args!("the kernels are {}", join(&names))))
}

/// The failure for a `--set` key that is no setting of the kernel.
pub(crate) fn unknown_setting(kernel: &str, key: &str, known: &[&str]) -> Failure {
    let failure = Failure::usage(format_args!("`{kernel}` has no setting `{key}`{}", suggestion(key, known)));
    match known {
        [] => failure.help("it has no settings"),
        _ => failure.help(format_args!("its settings are {}; see `leankv list {kernel}`", join(known))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn settings_are_pairs_given_once() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(settings(&strings(&["a=1", "b = x=y"])).unwrap(), [pair("a", "1"), pair("b", "x=y")]);
        let error = settings(&strings(&["a"])).unwrap_err().to_string();
        assert_eq!(error, "error: `--set a` has no value\n  help: write `--set key=value`");
        assert!(settings(&strings(&["a=1", "a=2"])).is_err());
    }

    #[test]
    fn targets_are_taken_once_in_their_order() {
        let names: Vec<String> =
            targets(&strings(&["sm_90", "host", "sm_90"])).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["sm_90", "host"]);
        assert!(targets(&strings(&["sm90"])).unwrap_err().to_string().contains("did you mean `sm_90`"));
    }

    #[test]
    fn an_unknown_name_lists_the_choices() {
        let error = named("sofmax", [("matmul", 1), ("softmax", 2)]).unwrap_err().to_string();
        assert_eq!(
            error,
            "error: there is no kernel `sofmax` (did you mean `softmax`?)\n  help: the kernels are `matmul` and `softmax`"
        );
        assert_eq!(named("softmax", [("matmul", 1), ("softmax", 2)]).unwrap(), 2);
    }
}
