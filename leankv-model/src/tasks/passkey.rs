//! Passkey retrieval: a number is said once, somewhere in a long text of no importance, and asked for at its end.

use leankv_dsl::workload::Generator;

use super::Case;

/// Where a key is hidden.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passkey {
    /// Tokens that the prompt may have; it comes as near as whole sentences allow.
    pub tokens: usize,
    /// How far into the text the key stands: 0 at its beginning, 1 at its end.
    pub depth: f64,
    /// Which key and which text.
    pub seed: u64,
}

/// Why there is no such prompt.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PasskeyError {
    /// Task and key alone are longer.
    #[error("a passkey prompt has at least {minimum} tokens; {tokens} are too few")]
    TooShort {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens of a prompt without any filler.
        minimum: usize,
    },
    /// The depth is none.
    #[error("a depth of {depth} is none: it goes from 0, the beginning of the text, to 1, its end")]
    Depth {
        /// The depth asked for.
        depth: f64,
    },
}

const TASK: &str = "A pass key is hidden in the following text. Find it and remember it.\n\n";
const QUESTION: &str = "\n\nWhat is the pass key? The pass key is";

/// Text of no importance, without a digit.
const FILLER: [&str; 24] = [
    "The grass is green and the sky is blue.",
    "A slow river runs past the old mill.",
    "In the morning the market opens early.",
    "The baker carries warm bread across the square.",
    "Two cats sleep on the wall behind the church.",
    "After the rain the streets shine like glass.",
    "A letter lies unopened on the kitchen table.",
    "The children play until the lamps are lit.",
    "Far away a train whistles and is gone.",
    "The gardener waters the roses before noon.",
    "On Sundays the band plays under the trees.",
    "Nobody remembers who built the bridge.",
    "The wind turns and the leaves begin to fall.",
    "A boat is tied to the end of the pier.",
    "The shopkeeper counts his apples once more.",
    "In winter the lake is quiet and white.",
    "An open window lets in the smell of hay.",
    "The teacher writes a long word on the board.",
    "Behind the hill there is another village.",
    "The tailor looks for his favourite scissors.",
    "Some birds return to the same roof every spring.",
    "The clock in the hall is always a little late.",
    "A dog barks once and goes back to sleep.",
    "Supper is ready when the fire burns low.",
];

/// Builds the prompt. `count` says how many tokens a text has; it is asked about two dozen times.
pub fn case(passkey: Passkey, mut count: impl FnMut(&str) -> usize) -> Result<Case, PasskeyError> {
    let Passkey { tokens, depth, seed } = passkey;
    if !(0.0..=1.0).contains(&depth) {
        return Err(PasskeyError::Depth { depth });
    }
    let mut numbers = Generator::new(seed);
    let key = (10_000 + numbers.below(90_000)).to_string();
    let needle = format!("The pass key is {key}. Remember it: {key} is the pass key.");
    let mut sentences: Vec<&str> = Vec::new();
    // Each sentence follows another one than itself.
    let mut prompt = |filler: usize| {
        while sentences.len() < filler {
            let next = FILLER[numbers.below(FILLER.len())];
            if sentences.last() != Some(&next) {
                sentences.push(next);
            }
        }
        let (before, after) = sentences[..filler].split_at((depth * filler as f64).round() as usize);
        let text = [before, &[needle.as_str()], after].concat().join(" ");
        format!("{TASK}{text}{QUESTION}")
    };
    let minimum = count(&prompt(0));
    if minimum > tokens {
        return Err(PasskeyError::TooShort { tokens, minimum });
    }
    // The most sentences that fit: doubled until they do not, then halved in between.
    let (mut fits, mut too_many) = (0, 1);
    while count(&prompt(too_many)) <= tokens {
        (fits, too_many) = (too_many, too_many * 2);
    }
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if count(&prompt(middle)) <= tokens { fits = middle } else { too_many = middle }
    }
    Ok(Case { prompt: prompt(fits), answer: key })
}

/// Whether the first number that a model wrote after the prompt is the key.
pub fn check(output: &str, answer: &str) -> bool {
    let from = output.find(|c: char| c.is_ascii_digit()).unwrap_or(output.len());
    let number = output[from..].split(|c: char| !c.is_ascii_digit()).next();
    number == Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn build(tokens: usize, depth: f64, seed: u64) -> Case {
        case(Passkey { tokens, depth, seed }, words).unwrap()
    }

    #[test]
    fn prompts_are_as_long_as_asked_for_and_no_longer() {
        let longest = FILLER.iter().map(|sentence| words(sentence)).max().unwrap();
        for tokens in [50, 100, 1000, 5000] {
            let length = words(&build(tokens, 0.5, 1).prompt);
            assert!(length <= tokens && length + longest > tokens, "{length} for {tokens}");
        }
    }

    #[test]
    fn the_key_stands_once_and_at_its_depth() {
        for seed in 0..20 {
            for depth in [0.0, 0.25, 0.5, 0.9, 1.0] {
                let Case { prompt, answer } = build(2000, depth, seed);
                assert!(
                    answer.len() == 5 && answer.parse::<u32>().is_ok_and(|key| key >= 10_000),
                    "{answer}"
                );
                assert_eq!(prompt.matches("The pass key is").count(), 2, "once hidden, once asked for");
                assert!(!prompt.replace(&answer, "").contains(|c: char| c.is_ascii_digit()));
                let text = prompt.strip_prefix(TASK).unwrap().strip_suffix(QUESTION).unwrap();
                let (before, _) = text.split_once("The pass key is").unwrap();
                let found = words(before) as f64 / words(text) as f64;
                assert!((found - depth).abs() < 0.02, "at {found}, not {depth}");
            }
        }
    }

    #[test]
    fn a_seed_is_one_prompt_and_another_is_another() {
        assert_eq!(build(300, 0.5, 7), build(300, 0.5, 7));
        let (a, b) = (build(300, 0.5, 7), build(300, 0.5, 8));
        assert!(a.answer != b.answer && a.prompt != b.prompt);
        // The same text is prolonged, and the key stays.
        assert_eq!(build(300, 0.5, 7).answer, build(3000, 0.1, 7).answer);
        // Pinned: results of different versions of this program can be compared.
        assert_eq!(a.answer, "90791");
    }

    #[test]
    fn what_cannot_be_built_is_said() {
        let minimum = words(TASK) + words(QUESTION) + 12;
        assert_eq!(
            case(Passkey { tokens: 20, depth: 0.5, seed: 1 }, words),
            Err(PasskeyError::TooShort { tokens: 20, minimum })
        );
        assert!(case(Passkey { tokens: minimum, depth: 0.5, seed: 1 }, words).is_ok());
        for depth in [-0.1, 1.1, f64::NAN] {
            let built = case(Passkey { tokens: 200, depth, seed: 1 }, words);
            assert!(matches!(built, Err(PasskeyError::Depth { .. })));
        }
    }

    #[test]
    fn the_first_number_is_the_answer() {
        for output in [" 45050.", "45050", ": 45050 is the pass key", " 45050\n\n12345"] {
            assert!(check(output, "45050"), "{output:?}");
        }
        for output in ["", " 4505", " 450500", " 4 5050", " 12345, not 45050", " unknown"] {
            assert!(!check(output, "45050"), "{output:?}");
        }
    }
}
