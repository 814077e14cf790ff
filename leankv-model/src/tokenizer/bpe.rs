//! Byte-level BPE: text is cut into words, and within each word bytes are merged in the order of a list.

use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::{Kind, TokenizerError};

/// The ways of cutting text into words that are built in.
pub(super) const SPLITTINGS: [&str; 3] = ["smollm", "qwen2", "llama-bpe"];

/// Whether `pre` is Llama 3's way of cutting text into words, under one of the names that llama.cpp's converter has given it.
pub(super) fn is_llama3(pre: &str) -> bool {
    matches!(pre, "llama-bpe" | "llama3" | "llama-v3")
}

/// Qwen2's words; each digit is one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Llama 3's words; up to three digits are one.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A vocabulary with its merges, without special tokens.
pub(super) struct Bpe(tokenizers::Tokenizer);

fn error(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::Bpe(error.to_string())
}

impl Bpe {
    pub(super) fn new(
        pre: &str,
        tokens: &[&str],
        kinds: &[Kind],
        merges: &[(&str, &str)],
    ) -> Result<Bpe, TokenizerError> {
        // GPT-2's own words, and its alphabet in which each byte is a visible character.
        let gpt2 = ByteLevel::new(false, true, true);
        let by_pattern = |pattern: &str| -> Result<PreTokenizerWrapper, TokenizerError> {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(error)?;
            Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
        };
        let (words, normalise): (PreTokenizerWrapper, bool) = match pre {
            // Digits are cut out one by one first, which GPT-2's own pattern would keep together.
            "smollm" => (Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into(), false),
            // Characters are composed as the model's own tokenizer does, and unlike llama.cpp.
            "qwen2" => (by_pattern(QWEN2)?, true),
            _ if is_llama3(pre) => (by_pattern(LLAMA3)?, false),
            _ => return Err(TokenizerError::UnsupportedSplitting { pre: pre.to_owned() }),
        };
        let vocab: Vocab = (0u32..)
            .zip(tokens.iter().zip(kinds))
            .filter(|(_, (_, kind))| matches!(kind, Kind::Normal | Kind::UserDefined))
            .map(|(id, (token, _))| ((*token).to_owned(), id))
            .collect();
        // Marks never come from merging, whatever the list says.
        let marks: HashSet<&str> = tokens
            .iter()
            .zip(kinds)
            .filter(|(_, kind)| matches!(kind, Kind::Control | Kind::Unknown | Kind::Unused))
            .map(|(token, _)| *token)
            .filter(|token| !vocab.contains_key(*token))
            .collect();
        let is_mark = |(a, b): (&str, &str)| {
            !marks.is_empty()
                && (marks.contains(a) || marks.contains(b) || marks.contains([a, b].concat().as_str()))
        };
        let merges: Vec<(&str, &str)> = merges.iter().copied().filter(|&merge| !is_mark(merge)).collect();
        // Checked here since the builder panics on some of them.
        let wrong =
            merges.iter().find(|(a, b)| ![*a, *b, &[*a, *b].concat()].iter().all(|&t| vocab.contains_key(t)));
        if let Some((a, b)) = wrong {
            return Err(TokenizerError::Malformed {
                key: "tokenizer.ggml.merges",
                expected: "an array of pairs of tokens that make up a token",
                found: format!("an array with `{a} {b}`"),
            });
        }
        let merges = merges.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        // In Llama 3's vocabulary a word that is a token is that token, even where no merges lead to it.
        let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(is_llama3(pre));
        let model = model.build().map_err(error)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(words));
        if normalise {
            tokenizer.with_normalizer(Some(NFC)).map_err(error)?;
        }
        Ok(Bpe(tokenizer))
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let encoding = self.0.encode_fast(text, false).map_err(error)?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

/// What a token decodes to: GPT-2's alphabet writes a byte that is a visible Latin-1 character as itself, and the
/// others, in their order, as the characters from U+0100 on.
pub(super) fn bytes(token: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(token.len());
    for c in token.chars() {
        match u32::from(c) {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => out.push(code as u8),
            code @ 0x100..=0x120 => out.push((code - 0x100) as u8),
            code @ 0x121..=0x142 => out.push((code - 0x121 + 0x7f) as u8),
            0x143 => out.push(0xad),
            // No letter of the alphabet: a token that was added as plain text.
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.into()
}
