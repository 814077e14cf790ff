//! tmp
/// c
pub struct Case { /// p
 pub prompt: String, /// a
 pub answer: String }
/// a
pub fn arithmetic(_: usize) -> Vec<Case> { vec![] }
/// a
pub fn passkey(_: usize, _: usize, _: u64, _: &dyn Fn(&str) -> usize) -> Vec<Case> { vec![] }
/// a
pub fn is_complete(_: &str) -> bool { false }
/// a
pub fn check(_: &str, _: &str) -> bool { false }
