//! The parts of PTX text that run more than once.

use std::collections::HashMap;

/// The lines of `ptx` that lie in a loop: between a label and the last branch back to it. LLVM lays a loop's blocks out together, so
/// that is its body; blocks that leave the loop stand after it.
pub(super) fn looped_lines(ptx: &str) -> String {
    let lines: Vec<&str> = ptx.lines().map(|l| l.split("//").next().unwrap_or_default().trim()).collect();
    let labels: HashMap<&str, usize> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((line.strip_suffix(':')?, at))).collect();
    let mut looped = vec![false; lines.len()];
    for (at, line) in lines.iter().enumerate() {
        let mut words = line.trim_end_matches(';').split_whitespace().skip_while(|w| w.starts_with('@'));
        let (Some("bra" | "bra.uni"), Some(target)) = (words.next(), words.next()) else { continue };
        if let Some(&start) = labels.get(target).filter(|&&start| start <= at) {
            looped[start..=at].fill(true);
        }
    }
    let kept: Vec<&str> =
        lines.iter().zip(looped).filter(|(_, looped)| *looped).map(|(line, _)| *line).collect();
    // What counts instructions looks for them between the braces of a function.
    format!("{{\n{}\n}}\n", kept.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::looped_lines;

    #[test]
    fn a_loop_is_what_lies_between_a_label_and_the_branch_back_to_it() {
        let ptx = ".entry k()\n{\nmov.u32 %r1, 0;\n@%p0 bra $done;\n$again:\nadd.s32 %r1, %r1, 1; // turn\n\
            @%p1 bra $skip;\nbar.sync 0;\n$skip:\n@!%p2 bra $again;\n$done:\nbar.sync 0;\nret;\n}";
        assert_eq!(
            looped_lines(ptx),
            "{\n$again:\nadd.s32 %r1, %r1, 1;\n@%p1 bra $skip;\nbar.sync 0;\n$skip:\n@!%p2 bra $again;\n}\n"
        );
    }

    #[test]
    fn straight_code_has_no_loop() {
        assert_eq!(looped_lines(".entry k()\n{\n@%p0 bra $end;\nbar.sync 0;\n$end:\nret;\n}"), "{\n\n}\n");
    }
}
