//! The registry of codes: each has a page in `explain/`.
//!
//! To add a code: use it in a [`Diagnostic`](super::Diagnostic), write `explain/K0xyz.md` after the pattern of its neighbours, add it to the list
//! below, and let a test produce it. Tests in this module hold all four together. The hundreds are areas: `K00` recording a kernel,
//! `K01` typing rules and the builder, `K02` the verifier, `K03` IR text, `K04` code generation, `K05` formats, `K08` running a kernel in
//! the interpreter (their examples are marked `tile run`).

/// A code and what there is to say about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    /// `K0101`.
    pub code: &'static str,
    /// Its page, in Markdown: a title line, what it is about, a wrong and a right example.
    pub page: &'static str,
}

impl Code {
    /// The title of its page, without the code.
    pub fn title(&self) -> &'static str {
        let line = self.page.lines().next().unwrap_or_default();
        line.split_once(": ").map_or(line, |(_, title)| title)
    }
}

/// Words that say nothing to a user: names of this crate's own types, of Rust's, of libraries. Tests hold messages and pages free
/// of them.
pub const INTERNAL_WORDS: &[&str] = &[
    "Inst",
    "SmallVec",
    "Value(",
    "Some(",
    "None",
    "unwrap",
    "panic",
    "LinearLayout",
    "LLVM ERROR",
    "Shape(",
    "Tile {",
    "Dtype",
    "TypeError",
    "BuildError",
    "Op::",
    "usize",
];

macro_rules! codes {
    ($($code:ident)*) => {
        /// All codes in rising order.
        pub const CODES: &[Code] = &[$(Code {
            code: stringify!($code),
            page: include_str!(concat!("explain/", stringify!($code), ".md")),
        },)*];
    };
}

codes! {
    K0001 K0002 K0003 K0004 K0005 K0006 K0007 K0008 K0009 K0010
    K0101 K0102 K0103 K0104 K0105 K0106 K0107 K0108 K0109
    K0201 K0202 K0203 K0204 K0205 K0206 K0207 K0208 K0209 K0210 K0211 K0212 K0213
    K0301 K0302
    K0801 K0802 K0803 K0804 K0805 K0806 K0807 K0808 K0809 K0810 K0811 K0812 K0813 K0814 K0815 K0816 K0817
}

/// The page of a code, in Markdown; the case of the letter does not matter.
pub fn explain(code: &str) -> Option<&'static str> {
    CODES.iter().find(|known| known.code.eq_ignore_ascii_case(code)).map(|known| known.page)
}
