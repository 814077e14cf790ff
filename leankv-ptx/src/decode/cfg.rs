//! Control flow: where diverged lanes meet again.

use super::op::{Guard, Op};

/// "At the end of the function".
pub(crate) const END: u32 = u32::MAX;

/// Successors of instruction `i`; the exit is `n`.
fn successors(ops: &[Op], guards: &[Guard], i: usize, out: &mut Vec<usize>) {
    let n = ops.len();
    out.clear();
    let guarded = guards[i] != Guard::NONE;
    match &ops[i] {
        Op::Bra { target, .. } => {
            out.push(*target as usize);
            if guarded {
                out.push(i + 1);
            }
        }
        Op::BrxIdx { targets, .. } => {
            out.extend(targets.iter().map(|t| *t as usize));
            if guarded {
                out.push(i + 1);
            }
        }
        Op::Ret | Op::Exit | Op::Trap => {
            out.push(n);
            if guarded {
                out.push(i + 1);
            }
        }
        _ => out.push(i + 1),
    }
}

/// Basic blocks of a function; the last one is its end, without instructions.
pub(super) struct Blocks {
    /// First instruction of each block.
    pub(super) starts: Vec<usize>,
    pub(super) succs: Vec<Vec<usize>>,
    pub(super) preds: Vec<Vec<usize>>,
    block_of: Vec<usize>,
}

impl Blocks {
    pub(super) fn new(ops: &[Op], guards: &[Guard]) -> Blocks {
        let n = ops.len();
        let mut leader = vec![false; n + 1];
        leader[0] = true;
        leader[n] = true;
        let mut succ = Vec::new();
        for i in 0..n {
            successors(ops, guards, i, &mut succ);
            if succ.len() != 1 || succ[0] != i + 1 {
                for s in &succ {
                    leader[*s] = true;
                }
                leader[i + 1] = true;
            }
        }
        let starts: Vec<usize> = (0..=n).filter(|i| leader[*i]).collect();
        let mut block_of = vec![0usize; n + 1];
        let mut b = 0;
        for i in 0..=n {
            if i > 0 && leader[i] {
                b += 1;
            }
            block_of[i] = b;
        }
        let exit = starts.len() - 1;
        let mut succs: Vec<Vec<usize>> = Vec::with_capacity(exit + 1);
        let mut preds: Vec<Vec<usize>> = vec![Vec::new(); exit + 1];
        for k in 0..exit {
            let last = starts[k + 1] - 1;
            successors(ops, guards, last, &mut succ);
            let mut list: Vec<usize> = succ.iter().map(|s| block_of[*s]).collect();
            list.sort_unstable();
            list.dedup();
            for s in &list {
                preds[*s].push(k);
            }
            succs.push(list);
        }
        succs.push(Vec::new());
        Blocks { starts, succs, preds, block_of }
    }

    /// Number of the last block, the function's end.
    pub(super) fn exit(&self) -> usize {
        self.starts.len() - 1
    }
}

/// For each branch instruction the start of its immediate post-dominator block, [`END`] for the function's end;
/// [`END`] for everything else.
pub(super) fn meeting_points(ops: &[Op], blocks: &Blocks) -> Vec<u32> {
    let n = ops.len();
    let mut meet = vec![END; n];
    if n == 0 {
        return meet;
    }
    let Blocks { starts, succs, preds, block_of } = blocks;
    let exit = blocks.exit();
    // Reverse post-order of the reversed graph, from the exit.
    let mut order = Vec::with_capacity(exit + 1);
    let mut seen = vec![false; exit + 1];
    let mut stack = vec![(exit, 0usize)];
    seen[exit] = true;
    while let Some((v, next)) = stack.pop() {
        if next < preds[v].len() {
            stack.push((v, next + 1));
            let p = preds[v][next];
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            order.push(v);
        }
    }
    order.reverse();
    let mut number = vec![usize::MAX; exit + 1];
    for (i, v) in order.iter().enumerate() {
        number[*v] = i;
    }
    let mut ipdom = vec![usize::MAX; exit + 1];
    ipdom[exit] = exit;
    let mut changed = true;
    while changed {
        changed = false;
        for v in order.iter().skip(1) {
            let mut new = usize::MAX;
            for s in &succs[*v] {
                if ipdom[*s] == usize::MAX {
                    continue;
                }
                if new == usize::MAX {
                    new = *s;
                    continue;
                }
                let (mut a, mut b) = (*s, new);
                while a != b {
                    while number[a] > number[b] {
                        a = ipdom[a];
                    }
                    while number[b] > number[a] {
                        b = ipdom[b];
                    }
                }
                new = a;
            }
            if new != usize::MAX && ipdom[*v] != new {
                ipdom[*v] = new;
                changed = true;
            }
        }
    }
    for i in 0..n {
        if matches!(ops[i], Op::Bra { .. } | Op::BrxIdx { .. }) {
            // Blocks that never reach the exit (endless loops) have no meeting point.
            let p = ipdom[block_of[i]];
            if p != usize::MAX && p != exit {
                meet[i] = starts[p] as u32;
            }
        }
    }
    meet
}
