//! What a user asks for: formats, thresholds or a budget, a policy, a variant; as text.

use std::fmt;
use std::str::FromStr;

use leankv_dsl::format::Tiering;
use leankv_kernels::policy::PolicySpec;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// How a cache's keys and values are coded, and what stays.
///
/// As text: `FORMAT[/LOW][+VARIANT...][@LIMIT][:POLICY]`, such as `fp16`, `K8V4`, `K8V4/K4V2`, `K8V4/K4V2@1,0.02` (thresholds),
/// `K8V4/K4V2@1/5` (a fifth of the bytes of FP16), `K4V4+offset`, `K8V4@1/5:sink-window`. Without a limit two tiers have the calibrated
/// thresholds, or the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvChoice {
    /// Formats of the tiers.
    pub tiering: Tiering,
    /// What is done to keys before they are coded.
    pub variant: Variant,
    /// What limits the bytes.
    pub limit: Limit,
    /// Which tokens stay.
    pub policy: PolicySpec,
}

/// What is done to keys before they are coded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The projection's bias is taken out.
    pub offset: bool,
    /// They are rotated by a block Hadamard matrix.
    pub hadamard: bool,
}

/// What limits the bytes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The thresholds that were calibrated, or the paper's.
    Calibrated,
    /// Thresholds, high and low, as multiples of `1 / tokens`.
    Thresholds([f32; 2]),
    /// The bytes of FP16 over this: of the prompt until it is there, then of the sequence as it grows.
    Part(f32),
}

/// A text that is no [`KvChoice`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` names no KV cache: {why}\n  write FORMAT[/LOW][+offset][+hadamard][@HIGH,LOW or @1/N][:POLICY], such as fp16, k8v4, \
     k8v4/k4v2@1,0.02, k8v4/k4v2@1/5, k4v4+offset, k8v4@1/5:sink-window"
)]
pub struct BadChoice {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl KvChoice {
    /// One format for every token.
    pub fn uniform(tiering: Tiering) -> KvChoice {
        KvChoice {
            tiering,
            variant: Variant::default(),
            limit: Limit::Calibrated,
            policy: PolicySpec::Uniform,
        }
    }

    /// FP16: the yardstick.
    pub fn fp16() -> KvChoice {
        KvChoice::uniform("fp16".parse().expect("this is a format's name"))
    }

    /// With what was calibrated for a model, where the limit is left to that.
    #[must_use]
    pub fn resolved(mut self, settings: &Settings, model: &str) -> KvChoice {
        if self.limit == Limit::Calibrated && !self.is_uniform() {
            self.limit = Limit::Thresholds(settings.thresholds(model, &self.tiering));
        }
        self
    }

    /// Whether it means something: a choice that was put together can say what none that was read does.
    ///
    /// # Errors
    /// [`BadChoice`], as reading its text does.
    pub fn check(&self) -> Result<(), BadChoice> {
        check(self).map_err(|why| BadChoice { text: self.to_string(), why })
    }

    /// Whether every token stays in the one format there is.
    pub fn is_uniform(&self) -> bool {
        self.policy == PolicySpec::Uniform
    }
}

impl fmt::Display for KvChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tiering)?;
        if self.variant.offset {
            f.write_str("+offset")?;
        }
        if self.variant.hadamard {
            f.write_str("+hadamard")?;
        }
        match self.limit {
            Limit::Calibrated => {}
            Limit::Thresholds([high, low]) => write!(f, "@{high},{low}")?,
            Limit::Part(part) => write!(f, "@1/{part}")?,
        }
        // The policy that is meant when none is written.
        if self.policy != implied(&self.tiering, self.limit) {
            write!(f, ":{}", self.policy)?;
        }
        Ok(())
    }
}

/// Two tiers and limits are LeanKV's; one format without a limit keeps every token.
fn implied(tiering: &Tiering, limit: Limit) -> PolicySpec {
    match (tiering.low, limit) {
        (None, Limit::Calibrated) => PolicySpec::Uniform,
        _ => PolicySpec::default(),
    }
}

impl FromStr for KvChoice {
    type Err = BadChoice;

    fn from_str(text: &str) -> Result<KvChoice, BadChoice> {
        parse(text.trim()).map_err(|why| BadChoice { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<KvChoice, String> {
    let (rest, policy) = match text.split_once(':') {
        Some((rest, policy)) => (rest, Some(policy.parse::<PolicySpec>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let (rest, limit) = match rest.split_once('@') {
        Some((rest, limit)) => (rest, parse_limit(limit)?),
        None => (rest, Limit::Calibrated),
    };
    let mut parts = rest.split('+');
    let tiering: Tiering = parts.next().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
    let mut variant = Variant::default();
    for part in parts {
        match part {
            "offset" => variant.offset = true,
            "hadamard" => variant.hadamard = true,
            other => return Err(format!("`{other}` is no variant; there are offset and hadamard")),
        }
    }
    let policy = policy.unwrap_or_else(|| implied(&tiering, limit));
    let choice = KvChoice { tiering, variant, limit, policy };
    check(&choice).map(|()| choice)
}

fn check(choice: &KvChoice) -> Result<(), String> {
    let KvChoice { tiering, limit, policy, .. } = choice;
    check_limit(*limit)?;
    match (policy, tiering.low, limit) {
        (PolicySpec::Uniform, Some(_), _) => Err("a uniform cache has one format".to_owned()),
        (PolicySpec::Uniform, None, Limit::Thresholds(_) | Limit::Part(_)) => {
            Err("a uniform cache keeps every token, so it takes no limit".to_owned())
        }
        (PolicySpec::SinkWindow | PolicySpec::HeavyHitter, _, Limit::Calibrated | Limit::Thresholds(_)) => {
            Err(format!("{policy} takes a part of FP16, such as @1/5"))
        }
        (PolicySpec::SinkWindow | PolicySpec::HeavyHitter, Some(_), _) => {
            Err(format!("{policy} keeps tokens in one format"))
        }
        _ => Ok(()),
    }
}

/// Infinite thresholds are those of as many tokens as there can be, so there is no need for them.
fn check_limit(limit: Limit) -> Result<(), String> {
    let number = |x: f32| match x.is_finite() && x >= 0.0 {
        true => Ok(()),
        false => Err(format!("{x} is no number of at least 0")),
    };
    match limit {
        Limit::Calibrated => Ok(()),
        Limit::Thresholds([high, low]) => {
            number(high)?;
            number(low)?;
            match low > high {
                true => Err(format!("the low threshold {low} is above the high one {high}")),
                false => Ok(()),
            }
        }
        Limit::Part(part) => {
            number(part)?;
            if part < 1.0 { Err(format!("1/{part} is more than FP16 takes")) } else { Ok(()) }
        }
    }
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let number = |text: &str| text.parse::<f32>().map_err(|_| format!("`{text}` is no number of at least 0"));
    if let Some(part) = text.strip_prefix("1/") {
        return Ok(Limit::Part(number(part)?));
    }
    let (high, low) = text.split_once(',').ok_or_else(|| format!("`{text}` is neither HIGH,LOW nor 1/N"))?;
    Ok(Limit::Thresholds([number(high)?, number(low)?]))
}

impl From<KvChoice> for String {
    fn from(choice: KvChoice) -> String {
        choice.to_string()
    }
}

impl TryFrom<String> for KvChoice {
    type Error = BadChoice;

    fn try_from(text: String) -> Result<KvChoice, BadChoice> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_round_trip_through_their_names() {
        for name in [
            "fp16",
            "K8V4",
            "K8V4/K4V2",
            "K8V4/K4V2@1,0.02",
            "K8V4/K4V2@1/5",
            "K8V4@3,0.5",
            "K4V4+offset",
            "K4V4+offset+hadamard",
            "K8V4/K4V2+hadamard@1/2.5:leankv-paper",
            "K8V4@1/5:sink-window",
            "fp16@1/8:heavy-hitter",
        ] {
            let choice: KvChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
    }

    #[test]
    fn small_letters_will_do() {
        let choice: KvChoice = "k8v4/k4v2@1/5".parse().unwrap();
        assert_eq!(choice.to_string(), "K8V4/K4V2@1/5");
    }

    #[test]
    fn what_cannot_be_says_why() {
        for (text, why) in [
            ("k9v4", "K"),
            ("k8v4/k4v2:uniform", "one format"),
            ("k8v4@1/5:uniform", "no limit"),
            ("k8v4:sink-window", "1/5"),
            ("k8v4/k4v2@1/5:heavy-hitter", "one format"),
            ("k8v4@0.1,0.2", "above"),
            ("k8v4@1/0.5", "more than FP16"),
            ("k8v4@many", "neither"),
            ("k8v4@-1,0", "at least 0"),
            ("k8v4@nan,0", "at least 0"),
            ("k8v4@1,nan", "at least 0"),
            ("k8v4@inf,0", "at least 0"),
            ("k8v4@1/nan", "at least 0"),
            ("k8v4@1/inf", "at least 0"),
            ("k8v4@1/1e39", "at least 0"),
            ("k8v4@1/0", "more than FP16"),
            ("k8v4@1/-5", "at least 0"),
            ("k8v4+scaled", "no variant"),
            ("k8v4@1/5:h2o", "heavy-hitter"),
        ] {
            let error = text.parse::<KvChoice>().unwrap_err();
            assert!(error.why.contains(why), "{text}: {}", error.why);
            assert!(error.to_string().contains("k4v4+offset"), "what to write");
        }
    }

    #[test]
    fn a_choice_that_was_put_together_is_held_to_the_same_rules() {
        let choice: KvChoice = "K8V4/K4V2".parse().unwrap();
        for limit in [
            Limit::Thresholds([f32::NAN, 0.0]),
            Limit::Thresholds([f32::INFINITY, 0.0]),
            Limit::Thresholds([0.1, 0.2]),
            Limit::Part(f32::NAN),
            Limit::Part(0.0),
        ] {
            let bad = KvChoice { limit, ..choice.clone() };
            assert!(bad.check().is_err(), "{bad}");
        }
        assert!(KvChoice { policy: PolicySpec::Uniform, ..choice.clone() }.check().is_err());
        assert_eq!(choice.check(), Ok(()));
    }
}
