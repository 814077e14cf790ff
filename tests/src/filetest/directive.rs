//! The lines that say what is tested.

/// `; test name key=value..`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The test.
    pub test: String,
    options: Vec<(String, String)>,
}

impl Header {
    /// An option's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Refuses options that the test does not have.
    pub(super) fn allow(&self, keys: &[&str]) -> Result<(), String> {
        match self.options.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
            Some((key, _)) => Err(format!("`test {}` has no option `{key}`", self.test)),
            None => Ok(()),
        }
    }
}

/// The tests of a file, from the lines before its first kernel.
pub(super) fn headers(text: &str) -> Vec<Result<Header, String>> {
    let lines = text.lines().take_while(|line| line.starts_with(';') || line.trim().is_empty());
    lines.filter_map(|line| line.strip_prefix("; test ")).map(header).collect()
}

fn header(line: &str) -> Result<Header, String> {
    let mut words = line.split_whitespace();
    let test = words.next().ok_or("`; test` without a test")?.to_owned();
    let options = words
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!("`{word}` is no option of the form key=value")),
        })
        .collect::<Result<_, _>>()?;
    Ok(Header { test, options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_stand_before_the_first_kernel() {
        let text = "; test opt passes=cse,dce\n; a remark\n; test run\n\nkernel @k() {\n; test verify\n}";
        let found = headers(text);
        assert_eq!(found.len(), 2);
        let first = found[0].clone().unwrap();
        assert_eq!(
            (first.test.as_str(), first.get("passes"), first.get("x")),
            ("opt", Some("cse,dce"), None)
        );
        assert!(first.allow(&["sm"]).unwrap_err().contains("no option `passes`"));
        assert!(header("opt cse").is_err());
    }
}
