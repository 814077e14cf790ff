//! Policies by name.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::PolicySpec;

/// The policies of this project but [`LeanKv`]: each a module with a unit struct, and its name.
macro_rules! stock_policies {
    ($($module:ident::$policy:ident = $name:literal),* $(,)?) => {
        $(mod $module; pub use $module::$policy;)*

        /// A policy's name in a specialisation: `leankv`, `leankv-late20` (hysteresis of 20 per cent), or the name of another one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum PolicySpec {
            /// [`LeanKv`].
            LeanKv {
                /// [`LeanKv::late`].
                late: u8,
            },
            $(
                #[doc = concat!("[`", stringify!($policy), "`]: `", $name, "`.")]
                $policy,
            )*
        }

        impl PolicySpec {
            /// All of them, ours without hysteresis.
            pub const ALL: [Self; 1 + [$($name),*].len()] = [Self::LeanKv { late: 0 }, $(Self::$policy),*];

            /// What is asked of one, whichever it is.
            fn with<R>(self, leankv: impl FnOnce(LeanKv) -> R, $($module: impl FnOnce($policy) -> R),*) -> R {
                match self {
                    Self::LeanKv { late } => leankv(LeanKv { late }),
                    $(Self::$policy => $module($policy),)*
                }
            }

            /// The policy, for kernels.
            #[must_use]
            pub fn policy(self) -> Box<dyn Policy> {
                self.with(|policy| Box::new(policy) as _, $(|$module| Box::new($module) as _),*)
            }

            /// The policy, in plain Rust.
            #[must_use]
            pub fn math(self) -> Box<dyn PolicyMath> {
                self.with(|policy| Box::new(policy) as _, $(|$module| Box::new($module) as _),*)
            }

            /// The name of all but [`LeanKv`] with hysteresis.
            const fn name(self) -> &'static str {
                match self {
                    Self::LeanKv { .. } => "leankv",
                    $(Self::$policy => $name,)*
                }
            }
        }
    };
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self::LeanKv { late: 0 }
    }
}

/// A name that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a policy: write leankv-lateN (N per cent, below 100), {names}", names = names())]
pub struct UnknownPolicy(pub String);

/// The names, in words.
fn names() -> String {
    let names: Vec<&str> = PolicySpec::ALL.iter().map(|policy| policy.name()).collect();
    match names.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeanKv { late: late @ 1.. } => write!(f, "leankv-late{late}"),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for PolicySpec {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        if let Some(known) = Self::ALL.into_iter().find(|known| known.name() == text) {
            return Ok(known);
        }
        let late = text.strip_prefix("leankv-late").and_then(|n| n.parse::<u8>().ok());
        match late.filter(|late| (1..100).contains(late)) {
            Some(late) => Ok(Self::LeanKv { late }),
            None => Err(UnknownPolicy(text.to_owned())),
        }
    }
}

impl From<PolicySpec> for String {
    fn from(spec: PolicySpec) -> String {
        spec.to_string()
    }
}

impl TryFrom<String> for PolicySpec {
    type Error = UnknownPolicy;

    fn try_from(text: String) -> Result<Self, UnknownPolicy> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::PolicySpec;

    #[test]
    fn policies_round_trip_through_their_names() {
        for spec in PolicySpec::ALL.into_iter().chain([PolicySpec::LeanKv { late: 20 }]) {
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        for bad in ["", "LeanKV", "leankv-late", "leankv-late0", "leankv-late100", "leankv-late-3", "h2o"] {
            assert!(bad.parse::<PolicySpec>().is_err(), "{bad}");
        }
    }
}
