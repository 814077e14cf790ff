//! Text to token ids and back, with the vocabulary that a GGUF file carries.
//!
//! Two kinds of tokenizer are known, by the GGUF's `tokenizer.ggml.model`:
//!
//! * `gpt2`: byte-level BPE with a list of merges (SmolLM2, Qwen2.5, Qwen3, Llama 3). How text is cut into words first is named by
//!   `tokenizer.ggml.pre` and stands in the `bpe` module; the merging is that of the `tokenizers` crate.
//! * `llama`: SentencePiece's BPE (Gemma). Pieces carry scores instead of merges, and of two merges with one score
//!   the left one wins, which a list of merges cannot say; so the `spm` module merges by score itself.
//!
//! Special tokens are cut out of the text before either sees it (the `special` module), so both kinds treat them
//! alike: control tokens such as `<|im_start|>` only where the caller asks for it, tokens that the model's author
//! added to the vocabulary (`<tool_call>`, runs of spaces) always. Marks of the chat template are control tokens even in
//! files that call them text, with a warning.

mod bpe;
mod chat;
mod meta;
mod special;
mod spm;
mod stream;

use candle_core::quantized::gguf_file::Content;
pub use stream::Stream;

use bpe::Bpe;
use chat::Template;
use meta::Meta;
use special::{Fragment, Specials};
use spm::Spm;

/// Why a GGUF file gives no tokenizer, or a text no ids.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The GGUF lacks a field that its kind of tokenizer needs: it was exported without a vocabulary.
    #[error(
        "the GGUF has no `{key}`: it carries no usable vocabulary; take a file with the tokenizer inside"
    )]
    Missing {
        /// The metadata key.
        key: &'static str,
    },
    /// A field holds something else than its name says: the file is damaged or not written by a GGUF exporter.
    #[error(
        "`{key}` of the GGUF is {found}, where {expected} is expected; the file is damaged or wrongly converted"
    )]
    Malformed {
        /// The metadata key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A kind of tokenizer that is not built in.
    #[error(
        "tokenizers of kind `{model}` are not supported; supported are `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE)"
    )]
    UnsupportedModel {
        /// `tokenizer.ggml.model`.
        model: String,
    },
    /// A byte-level BPE that cuts text into words in a way that is not built in. A near miss would give other ids
    /// than those the model was trained on, so there is no default.
    #[error("text splitting `{pre}` is not supported; supported are {}", bpe::SPLITTINGS.join(", "))]
    UnsupportedSplitting {
        /// `tokenizer.ggml.pre`.
        pre: String,
    },
    /// The file has no chat template: it is a base model, which continues text.
    #[error(
        "the GGUF has no chat template: it is a base model; give it text to continue instead of a message"
    )]
    NoChatTemplate,
    /// The chat template is none of those known.
    #[error(
        "the GGUF's chat template is none of those known ({}); write the prompt with its special tokens yourself",
        chat::KNOWN
    )]
    UnknownChatTemplate,
    /// The merging engine refused the vocabulary or a text.
    #[error("byte-level BPE: {0}")]
    Bpe(String),
}

/// What llama.cpp's converter says about a token (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for text that nothing else stands for.
    Unknown,
    /// A mark such as `<|im_end|>`: never text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// A number without a meaning, as padding of the vocabulary.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

enum Engine {
    Bpe(Box<Bpe>),
    Spm(Spm),
}

/// The tokenizer of one model.
pub struct Tokenizer {
    engine: Engine,
    specials: Specials,
    /// What each id decodes to.
    bytes: Vec<Box<[u8]>>,
    bos: Option<u32>,
    add_bos: bool,
    eos: Vec<u32>,
    template: Template,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.engine {
            Engine::Bpe(_) => "gpt2",
            Engine::Spm(_) => "llama",
        };
        f.debug_struct("Tokenizer")
            .field("kind", &kind)
            .field("vocab_len", &self.vocab_len())
            .field("bos", &self.bos)
            .field("add_bos", &self.add_bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// Control tokens that end a turn or a document, in the models that have them. A GGUF names only one of its own as
/// `eos`.
const ENDS: [&str; 7] =
    ["<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<eos>", "<|eot_id|>", "<|end_of_text|>", "</s>"];

/// Makes control tokens of a chat template's marks that the file calls text, as wrongly converted ones do: split into pieces, they would say nothing to
/// the model; and as text that is always one token, a message could forge them.
fn take_marks(tokens: &[&str], kinds: &mut [Kind], template: &str) {
    let mut normal = Vec::new();
    for (token, kind) in tokens.iter().zip(kinds) {
        if matches!(kind, Kind::Normal | Kind::UserDefined) && chat::is_mark(token, template) {
            if *kind == Kind::Normal {
                normal.push(*token);
            }
            *kind = Kind::Control;
        }
    }
    if !normal.is_empty() {
        tracing::warn!(
            tokens = ?normal,
            "the model file calls marks of its chat template plain text; they are taken as marks, since the file is wrongly converted"
        );
    }
}

impl Tokenizer {
    /// The tokenizer that a GGUF file's header describes.
    pub fn from_gguf(content: &Content) -> Result<Tokenizer, TokenizerError> {
        let meta = Meta::new(content);
        let model = meta.string("tokenizer.ggml.model")?;
        let tokens = meta.strings("tokenizer.ggml.tokens")?;
        let mut kinds = meta.kinds(tokens.len())?;
        let template = meta.optional_string("tokenizer.chat_template")?;
        take_marks(&tokens, &mut kinds, template.unwrap_or_default());
        // Whether to begin with the token is llama.cpp's default where the file does not say.
        let (engine, add_bos) = match model {
            "gpt2" => {
                let pre = meta.string("tokenizer.ggml.pre")?;
                let bpe = Bpe::new(pre, &tokens, &kinds, &meta.merges()?)?;
                (Engine::Bpe(Box::new(bpe)), bpe::is_llama3(pre))
            }
            "llama" => {
                let scores = meta.scores(tokens.len())?;
                let unknown = meta.id("tokenizer.ggml.unknown_token_id", tokens.len())?;
                // The defaults are those of llama.cpp for files written before the two fields existed.
                let prefix = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                (Engine::Spm(Spm::new(&tokens, &kinds, &scores, unknown, prefix)), true)
            }
            _ => return Err(TokenizerError::UnsupportedModel { model: model.to_owned() }),
        };
        let bytes = tokens
            .iter()
            .zip(&kinds)
            .map(|(token, kind)| match (kind, &engine) {
                (Kind::Control | Kind::Unknown | Kind::Unused, _) => Box::default(),
                (Kind::UserDefined, _) => token.as_bytes().into(),
                (_, Engine::Bpe(_)) => bpe::bytes(token),
                (_, Engine::Spm(_)) => spm::bytes(token, *kind),
            })
            .collect();
        let mut eos: Vec<u32> = Vec::new();
        for key in
            ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"]
        {
            eos.extend(meta.id(key, tokens.len())?);
        }
        let is_end = |(token, kind): &(&&str, &Kind)| **kind == Kind::Control && ENDS.contains(token);
        eos.extend((0u32..).zip(tokens.iter().zip(&kinds)).filter(|(_, t)| is_end(t)).map(|(id, _)| id));
        let mut seen = std::collections::HashSet::new();
        eos.retain(|id| seen.insert(*id));
        let bos = meta.id("tokenizer.ggml.bos_token_id", tokens.len())?;
        let add_bos = meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        // Where the file asks for the token in every text, the template's own would be a second one.
        let written = bos.filter(|_| !add_bos).map(|id| tokens[id as usize]);
        Ok(Tokenizer {
            specials: Specials::new(&tokens, &kinds),
            bytes,
            bos,
            add_bos,
            eos,
            template: Template::with_bos(template, written),
            engine,
        })
    }

    /// The ids of a text, after the model's begin-of-sequence token where the GGUF asks for one and the text does not begin
    /// with it already.
    ///
    /// With `special`, control tokens written out in the text (`<|im_start|>`) become their ids; without it they are
    /// text like any other, as it should be for text from outside.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        if special { self.encode_parts(text, "", "") } else { self.encode_parts("", text, "") }
    }

    /// The ids of the chat prompt for one user message. Unlike [`chat`](Tokenizer::chat) followed by
    /// [`encode`](Tokenizer::encode), the message cannot forge control tokens.
    pub fn encode_chat(&self, user: &str) -> Result<Vec<u32>, TokenizerError> {
        let (before, after) = self.template.around()?;
        self.encode_parts(before, user, after)
    }

    /// The ids of three texts as of one. Control tokens count only outside of the middle one.
    fn encode_parts(&self, before: &str, plain: &str, after: &str) -> Result<Vec<u32>, TokenizerError> {
        let parts = [before, plain, after].map(|part| match self.engine {
            Engine::Bpe(_) => part.into(),
            Engine::Spm(_) => spm::plain_spaces(part),
        });
        let plain = parts[0].len()..parts[0].len() + parts[1].len();
        let text = parts.concat();
        let fragments = self.specials.split(&text, plain);
        let begun =
            matches!((fragments.first(), self.bos), (Some(Fragment::Token(id)), Some(bos)) if *id == bos);
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos && !begun).into_iter().collect();
        for fragment in &fragments {
            match fragment {
                Fragment::Token(id) => ids.push(*id),
                Fragment::Text(text) => match &self.engine {
                    Engine::Bpe(bpe) => bpe.encode(text, &mut ids)?,
                    Engine::Spm(spm) => spm.encode(text, &mut ids),
                },
            }
        }
        Ok(ids)
    }

    /// The text of some ids. Control tokens and numbers without a meaning give nothing; bytes that are no UTF-8
    /// become `U+FFFD`.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream();
        let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes ids one by one as they are generated.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The chat prompt for one user message, in the format of the GGUF's chat template and up to where the model's
    /// answer begins. Encode it with `special`.
    pub fn chat(&self, user: &str) -> Result<String, TokenizerError> {
        let (before, after) = self.template.around()?;
        Ok(format!("{before}{user}{after}"))
    }

    /// The ids that end a generated text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The begin-of-sequence token, where the GGUF names one. [`encode`](Tokenizer::encode) adds it only where the
    /// GGUF asks for that.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// How many ids there are.
    pub fn vocab_len(&self) -> usize {
        self.bytes.len()
    }

    /// What an id decodes to; nothing for one outside the vocabulary.
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    /// Whether a decoded text begins with a space that [`encode`](Tokenizer::encode) put there.
    fn has_space_prefix(&self) -> bool {
        matches!(&self.engine, Engine::Spm(spm) if spm.space_prefix())
    }
}
