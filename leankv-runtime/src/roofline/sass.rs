//! SASS text of `nvdisasm -c -gp`: instructions with the line of the PTX that each comes from, blocks, loops.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// One machine instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instr {
    pub(super) address: u32,
    /// Whether a predicate stands before it.
    pub(super) guarded: bool,
    /// Full opcode, such as `LDG.E.128.CONSTANT`.
    pub(super) opcode: String,
    /// What stands behind the opcode.
    pub(super) operands: String,
    /// The PTX line.
    pub(super) line: u32,
}

impl Instr {
    /// The opcode up to its first dot.
    pub(super) fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or(&self.opcode)
    }

    /// The label that it may go to, or the function that it calls.
    fn target(&self) -> Option<&str> {
        let (_, rest) = self.operands.split_once("`(")?;
        rest.split_once(')').map(|(label, _)| label)
    }

    /// Lanes load or store this many bytes each.
    pub(super) fn access_bytes(&self) -> u32 {
        let part = |width: &str| self.opcode.split('.').any(|part| part == width);
        match () {
            () if part("128") => 16,
            () if part("64") => 8,
            () => 4,
        }
    }

    /// At most how many registers an operand is, of which the first is named.
    pub(super) fn span(&self) -> u32 {
        match self.base() {
            "HMMA" | "IMMA" => 4,
            "STG" | "STS" => self.access_bytes() / 4,
            _ => 1,
        }
    }

    /// Numbers of the 32-bit registers that it names: the first of each operand, in order.
    pub(super) fn registers(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.operands.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter_map(|word| word.strip_prefix('R')?.parse().ok())
    }
}

/// The code of one kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) instrs: Vec<Instr>,
    /// The instruction that a label stands before.
    labels: BTreeMap<String, usize>,
}

/// Instructions from a loop's first one to the last branch back to it, in the order of the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) body: Range<usize>,
}

/// Opcodes after which another instruction than the next may run.
const LEAVES: [&str; 7] = ["BRA", "BRX", "JMP", "EXIT", "RET", "CALL", "BREAK"];

impl Listing {
    /// Reads the section of the kernel called `entry`. Padding at its end is left out.
    pub(super) fn parse(text: &str, entry: &str) -> Listing {
        let mut listing = Listing::default();
        let section = format!(".text.{entry},");
        let (mut inside, mut ptx_line) = (false, 0);
        for line in text.lines().map(str::trim) {
            if let Some((".section", name)) = line.split_once(char::is_whitespace) {
                inside = name.starts_with(&section);
            } else if !inside {
            } else if let Some(note) = line.strip_prefix("//## File") {
                let number = note.rsplit_once(", line ").map(|(_, rest)| rest);
                ptx_line = number.and_then(|n| n.split(' ').next()?.parse().ok()).unwrap_or(0);
            } else if let Some(label) = line.strip_suffix(':') {
                listing.labels.insert(label.to_owned(), listing.instrs.len());
            } else if let Some(instr) = instr(line, ptx_line) {
                listing.instrs.push(instr);
            }
        }
        // Behind its end stand a branch to itself and instructions that do nothing.
        let padding = |listing: &Listing, instr: &Instr| {
            let to = instr.target().and_then(|label| listing.labels.get(label));
            instr.base() == "NOP" || to == Some(&(listing.instrs.len() - 1))
        };
        while listing.instrs.last().is_some_and(|last| padding(&listing, last)) {
            listing.instrs.pop();
        }
        listing
    }

    /// The instruction that this one may go to instead of the next.
    fn branch(&self, at: usize) -> Option<usize> {
        let instr = &self.instrs[at];
        // On sm_80 a call that never returns is how the assembler writes a far branch.
        let branches = matches!(instr.base(), "BRA" | "CALL");
        self.labels.get(instr.target().filter(|_| branches)?).copied()
    }

    /// The function of the assembler's own that an instruction calls, such as the slow path of a division.
    pub(super) fn called(&self, at: usize) -> Option<&str> {
        let instr = &self.instrs[at];
        instr.target().filter(|name| instr.base() == "CALL" && name.starts_with('$'))
    }

    /// Functions of the assembler's own, with their instructions.
    pub(super) fn functions(&self) -> Vec<(&str, Range<usize>)> {
        let mut starts: Vec<(usize, &str)> = self
            .labels
            .iter()
            .filter(|(name, _)| name.starts_with('$'))
            .map(|(n, at)| (*at, &n[..]))
            .collect();
        starts.sort_unstable();
        let ends = starts.iter().skip(1).map(|&(at, _)| at).chain([self.instrs.len()]);
        starts.iter().zip(ends).map(|(&(start, name), end)| (name, start..end)).collect()
    }

    /// Runs of instructions that are all executed as often as the first one.
    pub(super) fn blocks(&self) -> Vec<Range<usize>> {
        // Other labels are for debuggers.
        let targets = self.instrs.iter().filter_map(Instr::target).filter_map(|label| self.labels.get(label));
        let mut starts: BTreeSet<usize> = targets.copied().chain([0]).collect();
        let leaves = |at: &usize| LEAVES.contains(&self.instrs[*at].base());
        starts.extend((0..self.instrs.len()).filter(leaves).map(|at| at + 1));
        let starts: Vec<usize> = starts.into_iter().filter(|&at| at < self.instrs.len()).collect();
        let ends = starts.iter().skip(1).copied().chain([self.instrs.len()]);
        starts.iter().zip(ends).map(|(&start, end)| start..end).collect()
    }

    /// Which instructions a warp comes to that is never diverged where the assembler asks for it (`BRA.DIV`); of functions none.
    pub(super) fn reached(&self) -> Vec<bool> {
        let blocks = self.blocks();
        let mut reached = vec![false; self.instrs.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            let found = blocks.iter().find(|block| block.start == at && !reached[at]);
            let Some(block) = found.filter(|block| !block.is_empty()) else { continue };
            reached[block.clone()].fill(true);
            let end = block.end - 1;
            let last = &self.instrs[end];
            let always = !last.guarded && last.operands.starts_with('`') && self.called(end).is_none();
            if !always
                && (last.guarded || !matches!(last.base(), "EXIT" | "RET"))
                && block.end < self.instrs.len()
            {
                open.push(block.end);
            }
            if self.called(end).is_none() && !last.opcode.starts_with("BRA.DIV") {
                open.extend(self.branch(end));
            }
        }
        reached
    }

    /// Loops, by branches back. Those with one first instruction are one loop.
    pub(super) fn loops(&self) -> Vec<Loop> {
        let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
        for at in 0..self.instrs.len() {
            if let Some(to) = self.branch(at).filter(|&to| to < at && self.called(at).is_none()) {
                ends.entry(to).and_modify(|end| *end = at + 1).or_insert(at + 1);
            }
        }
        ends.into_iter().map(|(start, end)| Loop { body: start..end }).collect()
    }
}

/// `/*01a0*/  @!P2 BRA `(.L_x_3) ;`
fn instr(line: &str, ptx_line: u32) -> Option<Instr> {
    let (address, text) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let (text, _) = text.split_once(';')?;
    let text = text.trim().trim_start_matches('{').trim();
    let (guarded, text) = match text.strip_prefix('@') {
        Some(rest) => (true, rest.split_once(char::is_whitespace)?.1.trim()),
        None => (false, text),
    };
    let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    Some(Instr {
        address,
        guarded,
        opcode: opcode.to_owned(),
        operands: operands.trim().to_owned(),
        line: ptx_line,
    })
}
