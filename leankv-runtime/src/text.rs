//! Small helpers for messages: lists and suggestions.

/// `a`, `b` and `c`, each in backticks.
pub fn join(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("`{}`", n.as_ref())).collect();
    match &quoted[..] {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// ` (did you mean `x`?)` for the known name that is nearest to `name`, if one is near; else nothing.
pub fn suggestion(name: &str, known: &[impl AsRef<str>]) -> String {
    nearest(name, known).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"))
}

/// The known name nearest to `name`, within a third of its length in edits; the first of equals.
pub fn nearest<'a>(name: &str, known: &'a [impl AsRef<str>]) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    known
        .iter()
        .map(|k| (edits(&name.to_lowercase(), &k.as_ref().to_lowercase()), k.as_ref()))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_slip_is_recognised_and_a_different_word_is_not() {
        let known = ["softmax", "matmul", "decode_attention"];
        assert_eq!(nearest("sofmtax", &known), Some("softmax"));
        assert_eq!(nearest("Matmull", &known), Some("matmul"));
        assert_eq!(nearest("decode_atention", &known), Some("decode_attention"));
        assert_eq!(nearest("rope", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(join(&["a", "b", "c"]), "`a`, `b` and `c`");
        assert_eq!(join(&[""; 0]), "nothing");
    }
}
