//! Chat prompts. A GGUF carries its chat template as a Jinja program; instead of running it, the format is recognised
//! and written here.

use super::TokenizerError;

/// The formats, for messages.
pub(super) const KNOWN: &str = "ChatML, Gemma, Llama 3";

/// Whether a vocabulary's token is a mark of a chat template, rather than text that happens to stand in it.
pub(super) fn is_mark(token: &str, template: &str) -> bool {
    let shaped = token.len() > 4 && token.starts_with("<|") && token.ends_with("|>") && !token.contains(' ');
    (shaped || MARKS.contains(&token)) && template.contains(token)
}

/// Marks of another shape than `<|...|>`.
const MARKS: [&str; 6] = ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>"];

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
            Some(template) if template.contains("<|start_header_id|>") => {
                let user = "<|start_header_id|>user<|end_header_id|>\n\n";
                Template::Known {
                    before: format!("{}{user}", llama3_system(template).unwrap_or_default()),
                    after: "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                }
            }
            Some(_) => Template::Unknown,
        }
    }

    /// As [`recognise`](Template::recognise), with the begin-of-sequence token where the template itself writes it.
    pub(super) fn with_bos(template: Option<&str>, bos: Option<&str>) -> Template {
        match (Template::recognise(template), bos) {
            (Template::Known { before, after }, Some(bos))
                if template.is_some_and(|t| t.contains("bos_token")) && !before.starts_with(bos) =>
            {
                Template::Known { before: format!("{bos}{before}"), after }
            }
            (known, _) => known,
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

/// The system message that templates of Llama 3.1 to 3.3 begin with where the conversation has none: two dates. The second is the one that the template
/// has for programs that do not tell it the day.
fn llama3_system(template: &str) -> Option<String> {
    let after = |mark: &str| template.split_once(mark).map(|(_, rest)| rest);
    let cut = after("Cutting Knowledge Date: ")?.split(['\\', '\n', '"', '\'']).next()?;
    let today = after("set date_string = \"")?.split('"').next()?;
    let text = format!("Cutting Knowledge Date: {cut}\nToday Date: {today}\n\n");
    Some(format!("<|start_header_id|>system<|end_header_id|>\n\n{text}<|eot_id|>"))
}
