//! Word problems of arithmetic, with worked examples before each and integer answers.

use serde::Deserialize;

use super::Case;

/// Where the answer stands in a worked example, and so in what follows them.
const MARK: &str = "The answer is";

#[derive(Deserialize)]
struct File {
    shots: Vec<Shot>,
    problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct Shot {
    question: String,
    steps: String,
    answer: i64,
    #[cfg(test)]
    expression: String,
}

#[derive(Deserialize)]
struct Problem {
    question: String,
    answer: i64,
    #[cfg(test)]
    expression: String,
}

fn file() -> File {
    serde_json::from_str(include_str!("arithmetic.json")).expect("the problems are committed and tested")
}

/// How many worked examples there are to put before a problem.
pub fn shots() -> usize {
    file().shots.len()
}

/// All problems, each after the first `shots` worked examples (all, if there are fewer).
pub fn cases(shots: usize) -> Vec<Case> {
    let file = file();
    let examples: String = file
        .shots
        .iter()
        .take(shots)
        .map(|shot| {
            format!("Question: {}\nAnswer: {} {MARK} {}.\n\n", shot.question, shot.steps, shot.answer)
        })
        .collect();
    let case = |problem: &Problem| Case {
        prompt: format!("{examples}Question: {}\nAnswer:", problem.question),
        answer: problem.answer.to_string(),
    };
    file.problems.iter().map(case).collect()
}

/// Whether what a model wrote after a prompt gives the right answer, and no other.
pub fn check(output: &str, answer: &str) -> bool {
    extract(output).is_some_and(|found| found == answer)
}

/// Whether what a model has written so far ends with a full answer, so that it need not go on.
pub fn is_complete(output: &str) -> bool {
    let after = output.split_once(MARK).map(|(_, after)| after);
    after.is_some_and(|after| {
        after.contains('\n') || after.contains(". ") || (after.ends_with('.') && number(after).is_some())
    }) || output.contains("Question:")
}

/// The answer in what a model wrote: the number after `The answer is`, the last one where it says an equation;
/// without these words, the last number. What comes after the first problem (models like to invent more) does not
/// count.
pub fn extract(output: &str) -> Option<String> {
    let output = output.split("Question:").next().unwrap_or(output);
    let Some((_, after)) = output.split_once(MARK) else { return numbers(output).pop() };
    let sentence = after.split('\n').next().unwrap_or(after);
    match sentence.rsplit_once('=') {
        Some((_, right)) => number(right),
        None => number(sentence),
    }
}

fn number(text: &str) -> Option<String> {
    numbers(text).into_iter().next()
}

/// The numbers of a text in one spelling: without separators of thousands, and without decimals that are zero.
fn numbers(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !digit(at) {
            at += 1;
            continue;
        }
        // A minus that follows a number or a word is an operation or a hyphen.
        let before = text[..at].trim_end_matches('$');
        let negative =
            before.strip_suffix('-').is_some_and(|rest| rest.is_empty() || rest.ends_with([' ', '(', '=']));
        let mut number = String::from(if negative { "-" } else { "" });
        while digit(at) || (bytes.get(at) == Some(&b',') && (1..4).all(|i| digit(at + i)) && !digit(at + 4)) {
            if bytes[at] != b',' {
                number.push(char::from(bytes[at]));
            }
            at += 1;
        }
        if bytes.get(at) == Some(&b'.') && digit(at + 1) {
            let start = at;
            at += 1;
            while digit(at) {
                at += 1;
            }
            let decimals = text[start..at].trim_end_matches('0');
            if decimals != "." {
                number.push_str(decimals);
            }
        }
        found.push(number);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::iter::Peekable;
    use std::str::Chars;

    use super::*;

    /// Evaluates `+ - * /` and parentheses; nothing where a division leaves a remainder.
    fn evaluate(expression: &str) -> Option<i64> {
        type Input<'a> = Peekable<Chars<'a>>;
        fn sum(input: &mut Input<'_>) -> Option<i64> {
            let mut value = product(input)?;
            while let Some(op @ ('+' | '-')) = input.peek().copied() {
                input.next();
                let right = product(input)?;
                value = if op == '+' { value + right } else { value - right };
            }
            Some(value)
        }
        fn product(input: &mut Input<'_>) -> Option<i64> {
            let mut value = atom(input)?;
            while let Some(op @ ('*' | '/')) = input.peek().copied() {
                input.next();
                let right = atom(input)?;
                value =
                    if op == '*' { value * right } else { (value % right == 0).then(|| value / right)? };
            }
            Some(value)
        }
        fn atom(input: &mut Input<'_>) -> Option<i64> {
            if input.next_if_eq(&'(').is_some() {
                let value = sum(input)?;
                return input.next_if_eq(&')').map(|_| value);
            }
            let mut digits = String::new();
            while let Some(c) = input.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            digits.parse().ok()
        }
        let text = expression.replace(' ', "");
        let mut input = text.chars().peekable();
        sum(&mut input).filter(|_| input.next().is_none())
    }

    #[test]
    fn the_answers_are_right_and_the_problems_differ() {
        assert_eq!(evaluate("(2 + 3) * 4 - 6 / 2"), Some(17));
        assert_eq!(evaluate("7 / 2"), None);
        assert_eq!(evaluate("7 +"), None);
        let file = file();
        assert!(file.problems.len() >= 60);
        for problem in &file.problems {
            assert_eq!(evaluate(&problem.expression), Some(problem.answer), "{}", problem.question);
        }
        for shot in &file.shots {
            assert_eq!(evaluate(&shot.expression), Some(shot.answer), "{}", shot.question);
            assert_eq!(numbers(&shot.steps).pop(), Some(shot.answer.to_string()), "{}", shot.question);
        }
        let questions =
            file.problems.iter().map(|p| &p.question).chain(file.shots.iter().map(|s| &s.question));
        assert_eq!(questions.collect::<HashSet<_>>().len(), file.problems.len() + file.shots.len());
    }

    #[test]
    fn every_number_of_an_expression_is_in_its_question_or_a_word_of_it() {
        // Numbers that a question says in words: twice, half, dozen, minutes of an hour, sides of a rectangle ...
        let in_words = ["1", "2", "3", "4", "7", "12", "60"];
        for problem in &file().problems {
            let said = numbers(&problem.question);
            for number in numbers(&problem.expression) {
                assert!(
                    said.contains(&number) || in_words.contains(&number.as_str()),
                    "{number} in {}",
                    problem.question
                );
            }
        }
    }

    #[test]
    fn prompts_end_where_the_answer_begins() {
        let cases = cases(2);
        assert_eq!(cases.len(), file().problems.len());
        let prompt = &cases[0].prompt;
        assert_eq!(prompt.matches("Question:").count(), 3);
        assert_eq!(prompt.matches(MARK).count(), 2);
        assert!(prompt.starts_with("Question: Mia has 5 boxes"));
        assert!(prompt.ends_with("How many apples do they have together?\nAnswer:"));
        assert_eq!(cases[0].answer, "23");
        assert_eq!(super::cases(99)[0].prompt.matches("Question:").count(), shots() + 1);
        assert!(!super::cases(0)[0].prompt.contains(MARK));
    }

    #[test]
    fn a_worked_example_is_its_own_right_answer() {
        for shot in &file().shots {
            let output = format!(
                " {} {MARK} {}.\n\nQuestion: What is 1 + 1?\nAnswer: {MARK} 2.",
                shot.steps, shot.answer
            );
            assert!(check(&output, &shot.answer.to_string()), "{output}");
        }
    }

    #[test]
    fn answers_are_found_in_what_models_write() {
        let cases = [
            (" 5 * 6 = 30. 30 - 7 = 23. The answer is 23.", Some("23")),
            (" The answer is $1,475.00.\nQuestion: 7", Some("1475")),
            (" The answer is 14 + 9 = 23 apples.", Some("23")),
            (" The answer is 7.5 litres", Some("7.5")),
            (" The answer is -3.", Some("-3")),
            (" The answer is -$3.", Some("-3")),
            (" 20 - 6 is 14, and 14+13 is 27", Some("27")),
            (" 10-4", Some("4")),
            (" In 2,500,000 years", Some("2500000")),
            (" 1,2,3", Some("3")),
            (" They have 12 apples.\n\nQuestion: There are 7 dogs", Some("12")),
            (" The answer is unknown.\n5", None),
            (" No number at all.", None),
            ("", None),
        ];
        for (output, expected) in cases {
            assert_eq!(extract(output).as_deref(), expected, "{output:?}");
        }
        assert!(check(" The answer is 23.", "23"));
        assert!(!check(" The answer is 123.", "23"));
        assert!(!check(" The answer is 23.5.", "23"));
        assert!(!check("", "23"));
    }

    #[test]
    fn a_full_answer_is_recognised_and_a_beginning_is_not() {
        for output in
            [" The answer is 23.", " The answer is 23\n", " The answer is 2. And", " 4\n\nQuestion:"]
        {
            assert!(is_complete(output), "{output:?}");
        }
        for output in ["", " 5 * 6 = 30. 30 - 7", " The answer is", " The answer is 2", " The answer is."] {
            assert!(!is_complete(output), "{output:?}");
        }
    }
}
