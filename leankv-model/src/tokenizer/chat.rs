//! Chat prompts. A GGUF carries its chat template as a Jinja program; instead of running it, the format is recognised
//! and written here.

use super::TokenizerError;

/// The formats, for messages.
pub(super) const KNOWN: &str = "ChatML, Gemma";

/// What a chat template is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Template {
    /// A format that is written here: what stands before and after one user message.
    Known { before: String, after: &'static str },
    /// Another format.
    Unknown,
    /// The file has no template.
    Absent,
}

impl Template {
    /// The format of a file's template, with the system message that it puts in where the conversation has none.
    pub(super) fn recognise(template: Option<&str>) -> Template {
        match template {
            None => Template::Absent,
            Some(template) if template.contains("<|im_start|>") => {
                let system = default_system(template)
                    .map_or_else(String::new, |text| format!("<|im_start|>system\n{text}<|im_end|>\n"));
                Template::Known {
                    before: format!("{system}<|im_start|>user\n"),
                    after: "<|im_end|>\n<|im_start|>assistant\n",
                }
            }
            Some(template) if template.contains("<start_of_turn>") => Template::Known {
                before: "<start_of_turn>user\n".to_owned(),
                after: "<end_of_turn>\n<start_of_turn>model\n",
            },
            Some(_) => Template::Unknown,
        }
    }

    /// What stands before and after one user message.
    pub(super) fn around(&self) -> Result<(&str, &str), TokenizerError> {
        match self {
            Template::Known { before, after } => Ok((before, after)),
            Template::Unknown => Err(TokenizerError::UnknownChatTemplate),
            Template::Absent => Err(TokenizerError::NoChatTemplate),
        }
    }
}

/// The first system message of a ChatML template that is written out whole, from `<|im_start|>system` to `<|im_end|>`
/// within one Jinja string.
fn default_system(template: &str) -> Option<&str> {
    template.split("<|im_start|>system").skip(1).find_map(|rest| {
        // A newline in a Jinja string, written as an escape or as itself.
        let rest = rest.strip_prefix("\\n").or_else(|| rest.strip_prefix('\n'))?;
        let (text, _) = rest.split_once("<|im_end|>")?;
        (!text.is_empty() && !text.contains(['\'', '"', '{', '}', '\\'])).then_some(text)
    })
}
