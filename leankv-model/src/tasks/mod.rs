//! Tasks with one right answer, to see what a compressed cache does beyond perplexity. They know no model: a prompt
//! is text, and so is what a model made of it.

pub mod arithmetic;
pub mod passkey;

/// A prompt and the answer that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What the model is given to continue.
    pub prompt: String,
    /// The right answer, as digits.
    pub answer: String,
}
