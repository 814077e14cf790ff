//! Specialisations: the values a kernel is built for.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A specialisation as text: field name to value, as `--set name=value` gives it.
pub type Settings = BTreeMap<String, String>;

/// A field of a spec, for listings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SpecField {
    /// Its name.
    pub name: &'static str,
    /// Its Rust type, without path.
    pub ty: String,
    /// Its documentation.
    pub doc: &'static str,
    /// The value it has when it is not set.
    pub default: Option<String>,
    /// The declared values; empty when only the default is declared. Other values may work too: these are tested.
    pub values: Vec<String>,
    /// Values that a tuner may try, in order: the kernel computes the same with each, at another speed. Empty for a field that says what is computed.
    pub tune: Vec<String>,
}

/// Why settings are no specialisation.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct SpecError {
    /// What is wrong, all of it.
    pub problems: Vec<String>,
    /// What can be done.
    pub help: Vec<String>,
}

/// A specialisation: cache key, `--set` values, the tuner's point, the name of a snapshot. Made by `#[kernel]`
/// from `#[comptime]` parameters, or by `#[derive(Spec)]`.
///
/// `Display` gives `name=value,name=value`.
pub trait Spec:
    Clone + Eq + Hash + Debug + Display + Send + Sync + Serialize + DeserializeOwned + 'static
{
    /// The fields in order.
    fn fields() -> Vec<SpecField>;
    /// The values as text.
    fn settings(&self) -> Settings;
    /// The specialisation with these values, defaults for the rest.
    ///
    /// # Errors
    /// On unknown names, values that do not parse, and fields without value or default.
    fn from_settings(settings: &Settings) -> Result<Self, SpecError>;
    /// Every declared specialisation that is valid.
    fn space() -> Vec<Self>;
    /// Whether the declared condition holds.
    ///
    /// # Errors
    /// The condition's text, when it does not.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// A type's name without paths.
#[doc(hidden)]
pub fn type_name<T>() -> String {
    let full = std::any::type_name::<T>();
    // `core::option::Option<usize>` -> `Option<usize>`.
    let mut out = String::new();
    let mut word = String::new();
    for c in full.chars() {
        match c {
            ':' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            c => {
                out.push_str(&word);
                word.clear();
                out.push(c);
            }
        }
    }
    out + &word
}

/// Reads fields out of settings and collects what is wrong.
#[doc(hidden)]
pub struct Reader<'a> {
    settings: &'a Settings,
    problems: Vec<String>,
    help: Vec<String>,
}

#[doc(hidden)]
impl<'a> Reader<'a> {
    pub fn new(settings: &'a Settings, names: &[&str]) -> Self {
        let mut reader = Reader { settings, problems: Vec::new(), help: Vec::new() };
        for key in settings.keys().filter(|key| !names.contains(&key.as_str())) {
            reader.problems.push(format!("there is no field `{key}`"));
        }
        if !reader.problems.is_empty() {
            reader.help.push(match names {
                [] => "this kernel has no fields to set".to_owned(),
                _ => format!("the fields are {}", names.join(", ")),
            });
        }
        reader
    }

    pub fn field<T: FromStr>(&mut self, name: &str, default: Option<T>) -> Option<T>
    where
        T::Err: Display,
    {
        match self.settings.get(name) {
            Some(text) => match text.parse() {
                Ok(value) => Some(value),
                Err(error) => {
                    self.problems.push(format!("`{name}={text}`: {error}"));
                    self.help.push(format!("`{name}` is a {}", type_name::<T>()));
                    None
                }
            },
            None => {
                if default.is_none() {
                    self.problems.push(format!("`{name}` has no value and no default"));
                }
                default
            }
        }
    }

    pub fn finish<S>(self, make: impl FnOnce() -> Option<S>) -> Result<S, SpecError> {
        match make() {
            Some(spec) if self.problems.is_empty() => Ok(spec),
            _ => Err(SpecError { problems: self.problems, help: self.help }),
        }
    }
}
