//! What a user asks for: formats, thresholds or a budget, a policy, a variant; as text.

use std::fmt;
use std::str::FromStr;

use leankv_dsl::format::{KvFormat, LayerFormats, Tiering};
use leankv_kernels::policy::PolicySpec;
use leankv_runtime::kv::CacheConfig;
use serde::{Deserialize, Serialize};

use super::registry::{Named, NamedPolicy, NamedVariant, builtin, is_name};
use crate::settings::Settings;

/// How a cache's keys and values are coded, and what stays.
///
/// As text: `FORMAT[/LOW][;LAYERS=FORMAT[/LOW]...][+VARIANT...][@LIMIT][:POLICY][:sinks=N][:window=N][:keep=N][:peaks=N][:reconstruct]`, such as `fp16`, `K8V4`, `K8V4/K4V2`,
/// `K8V4/K4V2@1,0.02` (thresholds), `K8V4/K4V2@1/5` (a fifth of the bytes of FP16), `K4V4+offset`, `K8V4@1/5:sink-window`,
/// `K8V4/K4V2@1/8:sinks=8:window=16`, and `K8V4/K4V2;0,27=K8V8@1/5` where layers differ ([`LayerFormats`]). Without a limit two tiers have the calibrated thresholds, or the paper's. A limit alone, such as `@1/11`, is of the formats and numbers
/// that keep most at that size: [`KvChoice::DEFAULT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvChoice {
    /// Formats of the tiers of every layer.
    pub formats: LayerFormats,
    /// What is done to keys and values, or to attention; nothing is `+plain`. Without a word, what suits the model: a bias of its key projection
    /// is taken out, since no format of few bits holds keys with one.
    pub variants: Option<Vec<NamedVariant>>,
    /// What limits the bytes.
    pub limit: Limit,
    /// Which tokens stay.
    pub policy: NamedPolicy,
    /// Which stay whatever the policy says.
    pub always: Always,
    /// Whether each prompt is read twice, so that the peaks of its tokens start from [exact priors](crate::statistics::Priors).
    pub reconstruct: bool,
}

/// Tokens that stay whatever the policy says. As text each number that is not the usual one: `sinks=N`, `window=N`, `keep=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Always {
    /// Attention sinks, a sequence's first tokens: always high.
    pub sinks: usize,
    /// The recent window: always high.
    pub window: usize,
    /// Tokens of a sequence up to which a part of FP16 drops none, only demotes:
    /// [`CacheConfig::keep_tokens`](leankv_runtime::kv::CacheConfig::keep_tokens).
    pub keep: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none: [`CacheConfig::peaks`](leankv_runtime::kv::CacheConfig::peaks).
    /// With peaks a budget's thresholds are as far apart as rate and distortion say: [`CacheConfig::gap_of`](leankv_runtime::kv::CacheConfig::gap_of).
    pub peaks: usize,
}

impl Default for Always {
    fn default() -> Always {
        Always {
            sinks: CacheConfig::SINKS,
            window: CacheConfig::WINDOW,
            keep: CacheConfig::KEEP_TOKENS,
            peaks: 0,
        }
    }
}

impl Always {
    /// Sets a number by its name.
    fn set(&mut self, name: &str, number: &str) -> Result<(), String> {
        let n = number.parse::<usize>().ok().filter(|n| i32::try_from(*n).is_ok());
        let n = n.ok_or_else(|| match name {
            "peaks" => {
                format!("`{number}` is no weight of peaks, which is a whole number of thousandths up to 1000")
            }
            _ => format!("`{number}` is no number of tokens, which is a whole one below 2147483648"),
        })?;
        match name {
            "sinks" => self.sinks = n,
            "window" if n == 0 => return Err("a window has at least 1 token, the newest".to_owned()),
            "window" => self.window = n,
            "keep" => self.keep = n,
            "peaks" if n > 1000 => return Err(format!("peaks weigh at most 1000 thousandths, not {n}")),
            "peaks" => self.peaks = n,
            _ => {
                return Err(format!(
                    "`{name}` is no number of a cache; there are sinks, window, keep and peaks"
                ));
            }
        }
        Ok(())
    }
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
    "`{text}` names no KV cache: {why}\n  write FORMAT[/LOW][;LAYERS=FORMAT[/LOW]...][+VARIANT...][@HIGH,LOW or @1/N][:POLICY][:sinks=N][:window=N][:keep=N][:peaks=N][:reconstruct], or @1/N alone, such as \
     fp16, k8v4, k8v4/k4v2@1,0.02, k8v4/k4v2@1/5, k4v4;0,27=k8v8, k4v4+offset, k8v4@1/5:sink-window, k8v4/k4v2@1/8:sinks=8"
)]
pub struct BadChoice {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl KvChoice {
    /// What a limit alone is of: mid-rise codes of rotated rows, without their means where these are known, in two tiers; a window of 32 tokens; and peaks, with the priors that
    /// a probe predicts where one is known.
    pub const DEFAULT: &str = CacheConfig::ROTATED;

    /// Its numbers. Formats and the weight of peaks were chosen on Newton's *Opticks* and Python's `argparse.py` with SmolLM2.
    pub(crate) const DEFAULT_ALWAYS: Always = Always {
        sinks: CacheConfig::SINKS,
        window: CacheConfig::ROTATED_WINDOW,
        keep: CacheConfig::ROTATED_KEEP_TOKENS,
        peaks: CacheConfig::ROTATED_PEAKS as usize,
    };

    /// One format for every token.
    pub fn uniform(formats: impl Into<LayerFormats>) -> KvChoice {
        KvChoice {
            formats: formats.into(),
            variants: None,
            limit: Limit::Calibrated,
            policy: PolicySpec::Uniform.into(),
            always: Always::default(),
            reconstruct: false,
        }
    }

    /// Two tiers by the thresholds that are calibrated for these formats.
    pub fn calibrated(formats: impl Into<LayerFormats>) -> KvChoice {
        KvChoice { policy: PolicySpec::default().into(), ..KvChoice::uniform(formats) }
    }

    /// The default formats and numbers, for a part of FP16: what `@1/part` alone means.
    #[must_use]
    pub fn default_within(part: f32) -> KvChoice {
        let formats: LayerFormats = KvChoice::DEFAULT.parse().expect("this is a tiering's name");
        let limit = Limit::Part(part);
        KvChoice { limit, always: KvChoice::DEFAULT_ALWAYS, ..KvChoice::calibrated(formats) }
    }

    /// The same without what limits its bytes.
    #[must_use]
    pub fn unlimited(&self) -> KvChoice {
        KvChoice { limit: Limit::Calibrated, ..self.clone() }
    }

    /// FP16: the yardstick.
    pub fn fp16() -> KvChoice {
        KvChoice::uniform(Tiering::single(KvFormat::FP16))
    }

    /// As its text is read, but with any names of variants and policies.
    pub(super) fn read(text: &str) -> Result<KvChoice, BadChoice> {
        parse(text.trim()).map_err(|why| BadChoice { text: text.to_owned(), why })
    }

    /// With what was calibrated for a model, where the limit is left to that.
    #[must_use]
    pub fn resolved(mut self, settings: &Settings, model: &str) -> KvChoice {
        if self.limit == Limit::Calibrated && !self.is_uniform() {
            self.limit = Limit::Thresholds(settings.thresholds(model, &self));
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

    /// What is kept whatever a part of FP16 asks for, in words: why one is not kept to.
    #[must_use]
    pub fn floor(&self) -> String {
        let Always { sinks, window, keep, .. } = self.always;
        let always = match self.policy.stock() {
            Some(PolicySpec::SinkWindow) => format!("{sinks} sinks"),
            _ => format!("{sinks} sinks and a window of {window} tokens"),
        };
        let format = self.formats.usual().low.unwrap_or(self.formats.usual().high);
        match keep {
            0 => format!("{always} are always kept, in whole pages"),
            _ => format!(
                "at least what {keep} tokens take in {format} (`:keep=N`), {always} are always kept, in whole pages"
            ),
        }
    }

    /// Whether what is learned of a model's attention ([`Statistics`](crate::statistics::Statistics)) makes a difference.
    #[must_use]
    pub fn asks_for_statistics(&self) -> bool {
        let suits = self.formats.formats().any(|format| format.is_mid_rise());
        self.always.peaks > 0 || (suits && self.variants.is_none())
    }

    /// Whether every token stays in the one format there is.
    pub fn is_uniform(&self) -> bool {
        self.policy == PolicySpec::Uniform
    }
}

impl fmt::Display for KvChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.formats)?;
        match self.variants.as_deref() {
            None => {}
            Some([]) => f.write_str("+plain")?,
            Some(variants) => variants.iter().try_for_each(|variant| write!(f, "+{}", variant.name()))?,
        }
        match self.limit {
            Limit::Calibrated => {}
            Limit::Thresholds([high, low]) => write!(f, "@{high},{low}")?,
            Limit::Part(part) => write!(f, "@1/{part}")?,
        }
        // The policy that is meant when none is written.
        if self.policy != implied(&self.formats, self.limit) {
            write!(f, ":{}", self.policy)?;
        }
        let (own, usual) = (self.always, Always::default());
        let numbers = [
            ("sinks", own.sinks, usual.sinks),
            ("window", own.window, usual.window),
            ("keep", own.keep, usual.keep),
            ("peaks", own.peaks, usual.peaks),
        ];
        for (name, n, _) in numbers.into_iter().filter(|(_, n, usual)| n != usual) {
            write!(f, ":{name}={n}")?;
        }
        if self.reconstruct {
            f.write_str(":reconstruct")?;
        }
        Ok(())
    }
}

/// Two tiers and limits are LeanKV's; one format without a limit keeps every token.
fn implied(formats: &LayerFormats, limit: Limit) -> PolicySpec {
    match (formats.has_low(), limit) {
        (false, Limit::Calibrated) => PolicySpec::Uniform,
        _ => PolicySpec::default(),
    }
}

impl FromStr for KvChoice {
    type Err = BadChoice;

    /// With the variants and policies of this crate; [`Registry::parse`](super::Registry::parse) takes a user's too.
    fn from_str(text: &str) -> Result<KvChoice, BadChoice> {
        builtin().parse(text)
    }
}

fn parse(text: &str) -> Result<KvChoice, String> {
    let mut parts = text.split(':');
    let rest = parts.next().unwrap_or_default();
    // A limit alone.
    let (rest, usual) = match rest.starts_with('@') {
        true => (format!("{}{rest}", KvChoice::DEFAULT), KvChoice::DEFAULT_ALWAYS),
        false => (rest.to_owned(), Always::default()),
    };
    let (mut policy, mut always, mut reconstruct) = (None, usual, false);
    for part in parts {
        match part.split_once('=') {
            Some((name, _)) if text.matches(&format!(":{name}=")).count() > 1 => {
                return Err(format!("`{name}` is said twice"));
            }
            Some((name, number)) => always.set(name, number)?,
            None if part == "reconstruct" => {
                if std::mem::replace(&mut reconstruct, true) {
                    return Err("`reconstruct` is said twice".to_owned());
                }
            }
            None if policy.is_some() => return Err(format!("`{part}` is a second policy")),
            None => {
                policy = Some(match part.parse::<PolicySpec>() {
                    Ok(stock) => NamedPolicy::Stock(stock),
                    Err(_) if is_name(part) => NamedPolicy::User(Named::unknown(part)),
                    Err(error) => return Err(error.to_string()),
                });
            }
        }
    }
    let (rest, limit) = match rest.split_once('@') {
        Some((rest, limit)) => (rest, parse_limit(limit)?),
        None => (&*rest, Limit::Calibrated),
    };
    let mut parts = rest.split('+');
    let formats: LayerFormats = parts.next().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
    let mut variants: Option<Vec<NamedVariant>> = None;
    for part in parts {
        let others = variants.get_or_insert_default();
        match part {
            "plain" if rest.matches('+').count() == 1 => {}
            "plain" => return Err("keys are plain without any other variant".to_owned()),
            twice if others.iter().any(|other| other.name() == twice) => {
                return Err(format!("`{twice}` is said twice"));
            }
            name if is_name(name) => others.push(Named::unknown(name)),
            other => return Err(format!("`{other}` is no variant: a name is small letters, digits and `-`")),
        }
    }
    let policy = policy.unwrap_or_else(|| implied(&formats, limit).into());
    let choice = KvChoice { formats, variants, limit, policy, always, reconstruct };
    check(&choice).map(|()| choice)
}

fn check(choice: &KvChoice) -> Result<(), String> {
    let KvChoice { formats, limit, policy, always, .. } = choice;
    check_limit(*limit)?;
    if choice.reconstruct && *policy == PolicySpec::Uniform {
        return Err("a uniform cache keeps every token, so there is nothing to reconstruct for".to_owned());
    }
    if choice.reconstruct && always.peaks == 0 {
        return Err(
            "reconstruct says what peaks start from: give them a weight too, such as peaks=100".to_owned()
        );
    }
    match (policy.stock().unwrap_or_default(), formats.has_low(), limit) {
        (PolicySpec::Uniform, true, _) => Err("a uniform cache has one format".to_owned()),
        (PolicySpec::Uniform, false, Limit::Thresholds(_) | Limit::Part(_)) => {
            Err("a uniform cache keeps every token, so it takes no limit".to_owned())
        }
        (PolicySpec::SinkWindow | PolicySpec::HeavyHitter, _, Limit::Calibrated | Limit::Thresholds(_)) => {
            Err(format!("{policy} takes a part of FP16, such as @1/5"))
        }
        (PolicySpec::SinkWindow | PolicySpec::HeavyHitter, true, _) => {
            Err(format!("{policy} keeps tokens in one format"))
        }
        (PolicySpec::SinkWindow, ..) if always.window != Always::default().window => {
            Err("the window of sink-window is what its part of FP16 pays for".to_owned())
        }
        (PolicySpec::SinkWindow, ..) if always.peaks > 0 => {
            Err("sink-window looks at no scores, so it takes no peaks".to_owned())
        }
        (PolicySpec::Uniform, ..) if *always != Always::default() => {
            Err("a uniform cache keeps every token, so it takes no sinks, window, keep or peaks".to_owned())
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
            match part {
                ..1.0 => Err(format!("1/{part} is more than FP16 takes")),
                1e6.. => Err(format!("1/{part} of FP16 is less than a bit of a vector")),
                _ => Ok(()),
            }
        }
    }
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    if let Some((limit, variants)) = text.split_once('+') {
        return Err(format!("variants stand before the limit: write +{variants}@{limit} behind the formats"));
    }
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
        // Names are whoever's who wrote it; those of this crate mean what they mean here.
        builtin().parse(&text).or_else(|_| KvChoice::read(&text))
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
            "K4V4+plain",
            "K8V4/K4V2+hadamard@1/2.5:leankv-paper",
            "K8V4@1/5:sink-window",
            "fp16@1/8:heavy-hitter",
            "K8V4/K4V2@1/8:leankv-paper:sinks=8:window=16:keep=0",
            "K8V4@1/5:sink-window:sinks=0",
            "K4V4;0,29=K8V8;3-5=K4V2",
            "K8V4/K4V2;0=K8V8+plain@1/5:peaks=100",
            "K8V4@1/5:heavy-hitter:peaks=60:reconstruct",
        ] {
            let choice: KvChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
    }

    #[test]
    fn what_is_read_back_knows_what_this_crate_s_names_mean() {
        let read = |text: &str| serde_json::from_str::<KvChoice>(text).unwrap();
        let variants = read("\"K4V4+offset+hadamard\"").variants.unwrap();
        assert!(variants.len() == 2 && variants.iter().all(|variant| variant.maker().is_some()));
        // Names of others are only names.
        assert_eq!(read("\"K4V4+mine:theirs\"").to_string(), "K4V4+mine:theirs");
    }

    #[test]
    fn a_limit_alone_is_of_the_default_formats() {
        let choice: KvChoice = "@1/11".parse().unwrap();
        assert_eq!(choice.to_string(), "K8mV8m/K4mV4m@1/11:window=32:keep=120:peaks=100");
        assert_eq!(choice.to_string().parse::<KvChoice>().unwrap(), choice);
        assert_eq!(KvChoice::default_within(11.0), choice);
        assert!("@1/8:reconstruct".parse::<KvChoice>().unwrap().reconstruct);
        let other: KvChoice = "@1/8:peaks=0:window=16".parse().unwrap();
        assert_eq!(other.to_string(), "K8mV8m/K4mV4m@1/8:window=16:keep=120");
        assert!("@".parse::<KvChoice>().is_err() && "@1/11:uniform".parse::<KvChoice>().is_err());
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
            ("k8v4;1=k8v4/k4v2:uniform", "one format"),
            ("k8v4;1", "LAYERS=TIERING"),
            ("k8v4;2=k4v4;1-3=k4v2", "layer 2 is named twice"),
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
            ("k8v4/k4v2:sinks=-1", "no number of tokens"),
            ("k8v4/k4v2:window=0", "at least 1"),
            ("k8v4/k4v2:peaks=1001", "at most 1000"),
            ("k8v4/k4v2:peaks=-1", "no weight of peaks"),
            ("k8v4@1/5:sink-window:peaks=30", "takes no peaks"),
            ("k8v4/k4v2@1/5:reconstruct", "peaks=100"),
            ("fp16:reconstruct", "nothing to reconstruct"),
            ("@1/5:reconstruct:reconstruct", "said twice"),
            ("@1/5+rotated", "before the limit"),
            ("k8v4/k4v2:sinks=1:sinks=2", "said twice"),
            ("k8v4/k4v2:keep=4294967295", "below 2147483648"),
            ("k8v4/k4v2@1/1e20", "less than a bit"),
            ("k8v4/k4v2:sink=4", "there are sinks"),
            ("k8v4:sinks=8", "takes no sinks"),
            ("k8v4@1/5:sink-window:window=8", "pays for"),
            ("k8v4/k4v2:leankv:leankv-paper", "second policy"),
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
        assert!(KvChoice { policy: PolicySpec::Uniform.into(), ..choice.clone() }.check().is_err());
        assert_eq!(choice.check(), Ok(()));
    }
}
