//! Static counts of PTX text: what a kernel's code consists of, without running it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts over the text of one PTX module. Loops count once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtxStats {
    /// Lines of text.
    pub lines: usize,
    /// Instructions.
    pub instructions: usize,
    /// Instructions by family: the opcode, with the state space of memory accesses (`ld.global`) and what is moved by
    /// `cp.async`.
    pub families: BTreeMap<String, u32>,
    /// Global loads and stores of 16 bytes or more per thread, and all of them.
    pub wide_global_accesses: (u32, u32),
}

impl PtxStats {
    /// Counts `ptx`.
    pub fn of(ptx: &str) -> PtxStats {
        let mut stats = PtxStats { lines: ptx.lines().count(), ..PtxStats::default() };
        for (opcode, count) in opcode_histogram(ptx) {
            stats.instructions += count as usize;
            let family = family(&opcode);
            if family == "ld.global" || family == "st.global" {
                stats.wide_global_accesses.1 += count;
                if access_bytes(&opcode) >= 16 {
                    stats.wide_global_accesses.0 += count;
                }
            }
            *stats.families.entry(family).or_insert(0) += count;
        }
        stats
    }

    /// Instructions of a family (`mma`, `ld.global`, `bar`, ...).
    pub fn count(&self, family: &str) -> u32 {
        self.families.get(family).copied().unwrap_or(0)
    }
}

/// Number of instructions by spelling, predicates taken off.
pub fn opcode_histogram(ptx: &str) -> BTreeMap<String, u32> {
    let mut out = BTreeMap::new();
    let mut depth = 0u32;
    // An instruction may run over several lines: `mma` does, with a line for each operand.
    let mut statement = String::new();
    for line in ptx.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        // Between statements, a line without `;` is a label, a directive, or a brace that opens or closes a body.
        let starts_statement =
            line.ends_with(';') || line.starts_with(|c: char| c.is_ascii_lowercase() || c == '@');
        if statement.is_empty() && !(depth > 0 && starts_statement) {
            depth += line.matches('{').count() as u32;
            depth = depth.saturating_sub(line.matches('}').count() as u32);
            continue;
        }
        statement.push_str(line);
        statement.push(' ');
        if !line.ends_with(';') {
            continue;
        }
        let words = statement.split_whitespace().skip_while(|word| word.starts_with('@'));
        let opcode = words.map(|word| word.trim_end_matches(';')).next().unwrap_or_default();
        if opcode.starts_with(|c: char| c.is_ascii_lowercase()) {
            *out.entry(opcode.to_owned()).or_default() += 1;
        }
        statement.clear();
    }
    out
}

fn family(opcode: &str) -> String {
    let mut parts = opcode.split('.');
    let name = parts.next().unwrap_or_default();
    let space = ["global", "shared", "local", "param", "const"];
    match name {
        "ld" | "st" | "atom" | "red" => match opcode
            .split('.')
            .map(|p| p.split("::").next().unwrap_or(p))
            .find(|part| space.contains(part))
        {
            Some(space) => format!("{name}.{space}"),
            None => name.to_owned(),
        },
        "cp" => opcode.split('.').take(3).collect::<Vec<_>>().join("."),
        _ => name.to_owned(),
    }
}

/// Bytes per thread of a load or store: vector width times element width.
pub(crate) fn access_bytes(opcode: &str) -> u32 {
    let vector = opcode.split('.').find_map(|p| match p {
        "v2" => Some(2),
        "v4" => Some(4),
        "v8" => Some(8),
        _ => None,
    });
    let bits: u32 = opcode
        .rsplit('.')
        .next()
        .and_then(|ty| ty.trim_start_matches(char::is_alphabetic).parse().ok())
        .unwrap_or(0);
    vector.unwrap_or(1) * bits / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_by_family_and_nothing_else_is() {
        let ptx = "\
.version 8.0
.target sm_80
.visible .entry k(
\t.param .u64 k_param_0
)
.maxntid 128
{
\t.reg .b32 \t%r<9>;
\t.shared .align 16 .b8 buf[64];
\t// st.local in a comment
\tld.param.u64 \t%rd1, [k_param_0];
$L__BB0_1:
\tld.global.nc.v4.u32 \t{%r1, %r2, %r3, %r4}, [%rd1];
\tld.global.u16 \t%rs1, [%rd1+2]; // tail
\t@%p1 bra \t$L__BB0_1;
\tcp.async.cg.shared.global [%r1], [%rd1], 16;
\tcp.async.wait_all;
\tmma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
\t\t{%f1,%f2,%f3,%f4},
\t\t{%r1,%r2,%r3,%r4},
\t\t{%r5,%r6},
\t\t{%f1,%f2,%f3,%f4};
\tst.shared::cta.b32 [%r2], %r1;
\tst.global.v2.b64 [%rd1], {%rd2, %rd3};
\tbar.sync \t0;
\tret;
}
";
        let stats = PtxStats::of(ptx);
        let families: Vec<(&str, u32)> = stats.families.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(
            families,
            [
                ("bar", 1),
                ("bra", 1),
                ("cp.async.cg", 1),
                ("cp.async.wait_all", 1),
                ("ld.global", 2),
                ("ld.param", 1),
                ("mma", 1),
                ("ret", 1),
                ("st.global", 1),
                ("st.shared", 1),
            ]
        );
        assert_eq!(stats.instructions, 11);
        assert_eq!(stats.wide_global_accesses, (2, 3));
    }
}
