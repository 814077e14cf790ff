//! PTX text with everything removed that changes without meaning: what a snapshot should hold.

use std::collections::BTreeMap;

/// Rewrites PTX so that two texts that differ only in accidents become equal.
///
/// * Comments, blank lines, `.loc`, `.file`, `.section` blocks, `.version`, `.target`, `.address_size` and register declarations go.
/// * Virtual registers are renumbered per class and labels renamed, both in order of first use.
/// * Runs of blanks become one space; each statement is indented by four spaces.
///
/// Nothing is sorted and no instruction is dropped, so the result still reads as PTX.
pub fn normalise_ptx(ptx: &str) -> String {
    let mut names = Renamer::default();
    let mut out = String::new();
    let mut section_depth = 0usize;
    let mut in_block_comment = false;
    for line in ptx.lines() {
        let line = strip_comments(line, &mut in_block_comment);
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if section_depth > 0 || line.starts_with(".section") {
            section_depth += line.matches('{').count();
            section_depth = section_depth.saturating_sub(line.matches('}').count());
            continue;
        }
        let dropped = [".loc", ".file", ".version", ".target", ".address_size", ".reg"];
        let first = line.split(' ').next().unwrap_or_default();
        if line.is_empty() || dropped.contains(&first) {
            continue;
        }
        let line = names.rename(&line);
        let outer = line.starts_with('.') || line.starts_with(['{', '}', '(', ')']) || line.ends_with(':');
        out.push_str(if outer { "" } else { "    " });
        out.push_str(&line);
        out.push('\n');
    }
    out
}

fn strip_comments(line: &str, in_block: &mut bool) -> String {
    let mut out = String::new();
    let mut rest = line;
    loop {
        if *in_block {
            let Some(end) = rest.find("*/") else { return out };
            *in_block = false;
            rest = &rest[end + 2..];
        }
        match (rest.find("//"), rest.find("/*")) {
            (Some(line_comment), block) if block.is_none_or(|b| line_comment < b) => {
                out.push_str(&rest[..line_comment]);
                return out;
            }
            (_, Some(block)) => {
                out.push_str(&rest[..block]);
                *in_block = true;
                rest = &rest[block + 2..];
            }
            _ => {
                out.push_str(rest);
                return out;
            }
        }
    }
}

/// New names by class of register (`%rd`, `%f`, ..) and for labels.
#[derive(Default)]
struct Renamer {
    names: BTreeMap<String, String>,
    counts: BTreeMap<String, usize>,
}

impl Renamer {
    fn rename(&mut self, line: &str) -> String {
        let mut out = String::new();
        let mut rest = line;
        while let Some(start) = rest.find(['%', '$']) {
            out.push_str(&rest[..start]);
            let tail = &rest[start..];
            let end = tail[1..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .map_or(tail.len(), |e| e + 1);
            out.push_str(&self.name(&tail[..end]));
            rest = &tail[end..];
        }
        out.push_str(rest);
        out
    }

    fn name(&mut self, old: &str) -> String {
        let class = old.trim_end_matches(|c: char| c.is_ascii_digit());
        // `%tid`, `%laneid`, `%SP` are no numbered registers; `$L__BB0_7` is a label.
        if class == old {
            return old.to_owned();
        }
        let class = if old.starts_with('$') { "$L" } else { class };
        if let Some(known) = self.names.get(old) {
            return known.clone();
        }
        let count = self.counts.entry(class.to_owned()).or_default();
        *count += 1;
        let new = format!("{class}{count}");
        self.names.insert(old.to_owned(), new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::normalise_ptx;

    #[test]
    fn register_numbers_labels_comments_and_debug_lines_do_not_matter() {
        let a = "
            .version 8.0
            .target sm_80
            .visible .entry k() { // banner
                .reg .b32 %r<9>;
                .loc 1 4 5
                mov.u32 %r7, %tid.x; /* a
                comment */
            $L__BB0_2:
                add.s32   %r8, %r7, 1;
                bra $L__BB0_2;
            }
            .section .debug_str { .b8 1 { } }";
        let b = ".visible .entry k() {\nmov.u32 %r1, %tid.x;\n$L__BB5_9:\nadd.s32 %r2, %r1, 1;\nbra $L__BB5_9;\n}";
        assert_eq!(normalise_ptx(a), normalise_ptx(b));
        assert_eq!(
            normalise_ptx(b),
            ".visible .entry k() {\n    mov.u32 %r1, %tid.x;\n$L1:\n    add.s32 %r2, %r1, 1;\n    bra $L1;\n}\n"
        );
    }

    #[test]
    fn a_different_operand_is_a_difference() {
        let ptx =
            |a, b| format!("add.s32 %r1, %r2, %r3;\nst.global.u32 [%rd1], {a};\nst.global.u32 [%rd2], {b};");
        assert_ne!(normalise_ptx(&ptx("%r1", "%r2")), normalise_ptx(&ptx("%r2", "%r1")));
    }
}
