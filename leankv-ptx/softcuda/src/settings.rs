//! What the `SOFTCUDA_*` environment variables choose. The crate's documentation has the table for users.

use std::path::PathBuf;

use crate::arch::Arch;

/// When queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As soon as it is queued and what it waits for is done.
    Eager,
    /// When something waits for it, and then only what that needs.
    Deferred,
}

/// How lanes of a warp that took different branches go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Divergence {
    /// They meet again at the first instruction that all of them reach.
    Reconverge,
    /// Each lane on its own, in seeded order.
    Independent,
}

/// What a finding that is not a fault (a race, a read of uninitialised memory) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFinding {
    /// It is reported and the program goes on.
    Report,
    /// It is reported and fails the launch.
    Fail,
}

/// Which checks of the machine run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// All of them.
    All,
    /// Only those that cannot be switched off: bounds, alignment, lifetime.
    None,
    /// These, by the machine's names.
    Some(Vec<String>),
}

/// All choices.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) devices: usize,
    pub(crate) arch: Arch,
    pub(crate) memory_bytes: u64,
    pub(crate) checks: Checks,
    pub(crate) divergence: Divergence,
    pub(crate) order: Order,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) budget: Option<u64>,
    pub(crate) on_finding: OnFinding,
    pub(crate) report: Option<PathBuf>,
    pub(crate) counters: Option<PathBuf>,
    pub(crate) explain: bool,
    pub(crate) memory_pools: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            devices: 0,
            arch: Arch::Sm90,
            memory_bytes: 8 << 30,
            checks: Checks::All,
            divergence: Divergence::Reconverge,
            order: Order::Eager,
            seed: 0,
            threads: 0,
            budget: None,
            on_finding: OnFinding::Report,
            report: None,
            counters: None,
            explain: false,
            memory_pools: true,
        }
    }
}

const NAMES: [&str; 14] = [
    "SOFTCUDA_DEVICES",
    "SOFTCUDA_ARCH",
    "SOFTCUDA_MEMORY_MIB",
    "SOFTCUDA_CHECKS",
    "SOFTCUDA_DIVERGENCE",
    "SOFTCUDA_ORDER",
    "SOFTCUDA_SEED",
    "SOFTCUDA_THREADS",
    "SOFTCUDA_BUDGET",
    "SOFTCUDA_ON_FINDING",
    "SOFTCUDA_REPORT",
    "SOFTCUDA_COUNTERS",
    "SOFTCUDA_EXPLAIN",
    "SOFTCUDA_POOLS",
];

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// A sentence for each variable that cannot be understood or does not exist.
    pub(crate) fn from_env() -> Result<Settings, Vec<String>> {
        let vars = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("SOFTCUDA_"))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Settings::parse(vars)
    }

    /// From pairs of name and value.
    fn parse(vars: impl Iterator<Item = (String, String)>) -> Result<Settings, Vec<String>> {
        let mut settings = Settings::default();
        let mut wrong = Vec::new();
        for (name, value) in vars {
            if let Err(expected) = settings.set(&name, value.trim()) {
                wrong.push(format!("{name}={value}: {expected}"));
            }
        }
        wrong.sort();
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "SOFTCUDA_DEVICES" => self.devices = number(value, 0, 16)? as usize,
            "SOFTCUDA_ARCH" => self.arch = Arch::parse(value)?,
            "SOFTCUDA_MEMORY_MIB" => self.memory_bytes = number(value, 1, 1 << 20)? << 20,
            "SOFTCUDA_CHECKS" => {
                self.checks = match value {
                    "all" => Checks::All,
                    "none" => Checks::None,
                    list => Checks::Some(list.split(',').map(|name| name.trim().to_owned()).collect()),
                };
                crate::engine::checks(&self.checks)?;
            }
            "SOFTCUDA_DIVERGENCE" => {
                let (one, two) =
                    (("reconverge", Divergence::Reconverge), ("independent", Divergence::Independent));
                self.divergence = one_of(value, &[one, two])?;
            }
            "SOFTCUDA_ORDER" => {
                self.order = one_of(value, &[("eager", Order::Eager), ("deferred", Order::Deferred)])?;
            }
            "SOFTCUDA_SEED" => self.seed = number(value, 0, u64::MAX)?,
            "SOFTCUDA_THREADS" => self.threads = number(value, 0, 1024)? as usize,
            "SOFTCUDA_BUDGET" => self.budget = Some(number(value, 1, u64::MAX)?),
            "SOFTCUDA_ON_FINDING" => {
                let (one, two) = (("report", OnFinding::Report), ("fail", OnFinding::Fail));
                self.on_finding = one_of(value, &[one, two])?;
            }
            "SOFTCUDA_REPORT" => self.report = Some(PathBuf::from(value)),
            "SOFTCUDA_COUNTERS" => self.counters = Some(PathBuf::from(value)),
            "SOFTCUDA_EXPLAIN" => self.explain = one_of(value, &[("0", false), ("1", true)])?,
            "SOFTCUDA_POOLS" => self.memory_pools = one_of(value, &[("0", false), ("1", true)])?,
            _ => return Err(format!("no such variable; there are {}", NAMES.join(", "))),
        }
        Ok(())
    }
}

fn number(value: &str, least: u64, most: u64) -> Result<u64, String> {
    value
        .parse::<u64>()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("expected a number from {least} to {most}"))
}

fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("expected {}", names.join(" or "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::parse(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn no_device_is_visible_unless_asked() {
        assert_eq!(parse(&[]).unwrap().devices, 0);
        assert_eq!(parse(&[("SOFTCUDA_DEVICES", "2")]).unwrap().devices, 2);
    }

    #[test]
    fn variables_that_make_no_sense_say_what_would() {
        let wrong =
            parse(&[("SOFTCUDA_ORDER", "later"), ("SOFTCUDA_SED", "1"), ("SOFTCUDA_DEVICES", "many")])
                .unwrap_err();
        assert_eq!(wrong[0], "SOFTCUDA_DEVICES=many: expected a number from 0 to 16");
        assert_eq!(wrong[1], "SOFTCUDA_ORDER=later: expected eager or deferred");
        assert!(wrong[2].starts_with("SOFTCUDA_SED=1: no such variable; there are SOFTCUDA_DEVICES,"));
    }
}
