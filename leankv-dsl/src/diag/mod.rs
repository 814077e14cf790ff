//! Diagnostics: codes, rendering in rustc's manner, and the text behind `explain`.
