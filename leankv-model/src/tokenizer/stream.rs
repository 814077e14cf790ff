//! Decoding ids as they are generated.

use super::Tokenizer;

/// Decodes ids one by one and never gives half a character: bytes that begin one wait for those that complete it.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    /// The beginning of a character.
    pending: Vec<u8>,
    /// Whether the next text begins with a space that encoding put there.
    skip_space: bool,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Stream<'a> {
        Stream { tokenizer, pending: Vec::new(), skip_space: tokenizer.has_space_prefix() }
    }

    /// The text that this id completes, if any. Bytes that can begin no character become `U+FFFD`.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let mut bytes = self.tokenizer.token_bytes(id);
        if self.skip_space && !bytes.is_empty() {
            self.skip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        loop {
            let rest = &self.pending[done..];
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    done = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&rest[..valid]));
                    done += valid;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += bad;
                }
            }
        }
        self.pending.drain(..done);
        (!text.is_empty()).then_some(text)
    }

    /// What is left when no more ids come: nothing, or `U+FFFD` for a character that was never completed.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
