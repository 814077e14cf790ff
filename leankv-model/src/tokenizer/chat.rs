//! Chat prompts. A GGUF carries its chat template as a Jinja program; instead of running it, the format is recognised and written here.

use super::TokenizerError;

/// The formats, for messages.
pub(super) const KNOWN: &str = "ChatML, Gemma";

/// What stands around one user message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chat {
    before: String,
    after: &'static str,
}

impl Chat {
    /// The format of a template, with the system message that it puts in where the conversation has none.
    pub(super) fn recognise(template: &str) -> Result<Chat, TokenizerError> {
        if template.contains("<|im_start|>") {
            let system = default_system(template)
                .map_or_else(String::new, |text| format!("<|im_start|>system\n{text}<|im_end|>\n"));
            return Ok(Chat {
                before: format!("{system}<|im_start|>user\n"),
                after: "<|im_end|>\n<|im_start|>assistant\n",
            });
        }
        if template.contains("<start_of_turn>") {
            return Ok(Chat {
                before: "<start_of_turn>user\n".to_owned(),
                after: "<end_of_turn>\n<start_of_turn>model\n",
            });
        }
        Err(TokenizerError::UnknownChatTemplate)
    }

    pub(super) fn around(&self) -> (&str, &str) {
        (&self.before, self.after)
    }
}

/// The first system message of a ChatML template that is written out whole, from `<|im_start|>system` to `<|im_end|>` within one Jinja string.
fn default_system(template: &str) -> Option<&str> {
    template.split("<|im_start|>system").skip(1).find_map(|rest| {
        // A newline in a Jinja string, written as an escape or as itself.
        let rest = rest.strip_prefix("\\n").or_else(|| rest.strip_prefix('\n'))?;
        let (text, _) = rest.split_once("<|im_end|>")?;
        (!text.is_empty() && !text.contains(['\'', '"', '{', '}', '\\'])).then_some(text)
    })
}
