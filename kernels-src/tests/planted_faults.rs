//! Planted faults in the PTX of shipped kernels: every barrier removed (what one that reduces gave is then the thread's own), every buffer shortened, fragment registers of
//! every `mma` exchanged, every wait for asynchronous copies dropped, one lane taken out of every membermask.
//!
//! * A mutant is found if a check reports an error, the machine faults, or a buffer differs from the unharmed run's.
//! * One that is not found must be shown to be no fault, by running the unharmed kernel again: see [`harmless`].
//! * `cargo test -p leankv-kernels --test planted_faults -- --nocapture` prints the share found.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;

use common::paged::{Cache, D, PAGE, growing_cache};
use common::{Run, filled, halves, no_partials, partials, random};
use half::f16;
use leankv_dsl::codegen::nvptx::{NvptxArtifact, NvptxTarget};
use leankv_dsl::lang::attention::{PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::workload::given;
use leankv_kernels::candidates::{FindsArgs, LookingArgs, ShortlistMutArgs, ShortlistState};
use leankv_kernels::chunk::{ChunkAttentionArgs, WriteChunkArgs, chunk_attention, write_chunk};
use leankv_kernels::decode::{DecodeAttentionArgs, MergeSplitsArgs, decode_attention, merge_splits};
use leankv_kernels::manager::{ScanPagesArgs, scan_pages};
use leankv_kernels::matmul::{MatmulArgs, matmul};
use leankv_kernels::pending::{PendingArgs, PendingMutArgs};
use leankv_kernels::reference::PagedFormat;
use leankv_kernels::softmax::{SoftmaxArgs, softmax};
use leankv_ptx::syntax::ast::{Expr, Item, Operand, Space, Stmt, StmtKind};
use leankv_ptx::{Arg, Ast, Config, Divergence, LaunchConfig, Machine, Module};
use leankv_tests::conformance::executors::ptx::{compile, scalar};
use leankv_tests::conformance::{Case, CaseArg, number};

/// A compiled kernel with its arguments.
struct Subject {
    name: &'static str,
    /// The arguments, and others with which more of the kernel runs.
    cases: Vec<Case>,
    artifact: NvptxArtifact,
    ast: Ast,
}

/// Where something is changed: the how-manieth instruction or variable of its kind, in the order of the text.
#[derive(Clone, Debug)]
enum Change {
    /// Takes out an instruction.
    Remove(&'static str, usize),
    /// One element less of a kernel's argument.
    ShortArgument(usize),
    /// One 4-byte word less of a variable in shared memory.
    ShortShared(usize),
    /// One 4-byte word less of dynamic shared memory.
    ShortDynamic,
    /// Exchanges elements of an operand of an `mma`.
    Swap { mma: usize, operand: usize, elements: [usize; 2] },
    /// Clears a bit of a membermask.
    ClearBit { collective: usize, bit: u32 },
}

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Barrier,
    Buffer,
    Registers,
    Wait,
    Mask,
}

impl Class {
    const ALL: [Class; 5] = [Class::Barrier, Class::Buffer, Class::Registers, Class::Wait, Class::Mask];

    fn name(self) -> &'static str {
        match self {
            Class::Barrier => "barrier removed",
            Class::Buffer => "buffer shortened",
            Class::Registers => "registers exchanged",
            Class::Wait => "copy wait dropped",
            Class::Mask => "mask bit cleared",
        }
    }

    /// How many mutants have to be found by a check, and how many by the result: what a run found when this was written.
    fn floor(self) -> [usize; 2] {
        match self {
            Class::Barrier => [68, 0],
            Class::Buffer => [51, 0],
            Class::Registers => [0, 173],
            Class::Wait => [2, 0],
            Class::Mask => [220, 0],
        }
    }
}

impl Change {
    fn class(&self) -> Class {
        match self {
            Change::Remove("barrier", _) => Class::Barrier,
            Change::ShortArgument(_) | Change::ShortShared(_) | Change::ShortDynamic => Class::Buffer,
            Change::Swap { .. } => Class::Registers,
            Change::Remove(..) => Class::Wait,
            Change::ClearBit { .. } => Class::Mask,
        }
    }
}

fn subject(name: &'static str, runs: &[&Run]) -> Subject {
    let cases: Vec<Case> = runs.iter().map(|run| run.case.clone()).collect();
    let artifact = compile(&cases[0], cases[0].func.num_warps, NvptxTarget::Sm80)
        .unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let ast = Ast::parse(&artifact.ptx).unwrap_or_else(|e| panic!("{name}: {e}"));
    Subject { name, cases, artifact, ast }
}

/// Random halves.
fn half(seed: u64, len: usize) -> Vec<f16> {
    halves(&random(seed, len)).0
}

/// Seven kernels at specialisations that use tensor cores, asynchronous copies, shuffles, and shared memory.
fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();

    // Every list has both, so that the last elements are in use.
    let (heads, group, splits) = (2, 2, 2);
    let lengths = [[37, 20], [21, 9]];
    // Of the second one's tokens many outgrow those before them, in every tile of a page.
    let caches = [[1.0, 1.0], [1.12, 1.12]].map(|growth| growing_cache("K8V4/K4V2", heads, &lengths, growth));
    let pages = format!("tiering=K8V4/K4V2,head_dim={D},page_bytes={PAGE},group=2,block=16");
    let settings = format!(
        "{pages},split_pages=2,pattern=causal,significance=true,candidates=true,window=6,chunk=24,window_q=10"
    );
    let n = heads * group;
    let q = half(7, n * D);
    let (old, old_lse) = (half(8, n * D), vec![4.0; n]);
    let kernel = decode_attention::<Stock, Plain, PagedKv>::KERNEL;
    let decode = |cache: &Cache| {
        let args = DecodeAttentionArgs {
            q: given(&q).tensor([1, n, D]).into(),
            query_positions: given(&[57]).tensor([1]),
            scale: 0.125,
            kv: cache.kv(1),
            out: no_partials([1, n, splits], heads, D),
            pending: PendingArgs {
                q: given(&old).tensor([1, n, D]),
                lse: given(&old_lse).tensor([1, n]),
                newest: given(&[36, 20]).tensor([1, heads, 1]),
            },
            shortlist: LookingArgs {
                prompts: given(&[40]).tensor([1]),
                finds: FindsArgs {
                    sig: filled(7.0, [1, heads, 3, splits]),
                    at: filled(7, [1, heads, 6, splits]),
                },
                state: filled(7, [1, heads, ShortlistState::COLUMNS]),
            },
            codecs: (),
            hooks: (),
        };
        Run::new(&kernel, &settings, [heads, 1, splits], args)
    };
    let [decode, growing] = [&caches[0], &caches[1]].map(decode);
    all.push(subject("decode attention, two tiers", &[&decode, &growing]));
    let decode = decode.launch();
    let args = MergeSplitsArgs {
        parts: partials(&decode, [1, n, splits], heads, D),
        q: given(&q).tensor([1, n, D]).into(),
        slots: given(&[0]).tensor([1]),
        finds: FindsArgs {
            sig: given(&decode.read("shortlist.finds.sig")).tensor_mut([1, heads, 3, splits]),
            at: given(&decode.read("shortlist.finds.at")).tensor_mut([1, heads, 6, splits]),
        },
        shortlist: ShortlistMutArgs { sig: filled(7.0, [1, heads, 3]), at: filled(7, [1, heads, 6]) },
        pending: PendingMutArgs {
            q: given(&old).tensor_mut([1, n, D]),
            lse: given(&old_lse).tensor_mut([1, n]),
        },
        out: filled(7.0, [1, n, D]),
        lse: filled(7.0, [1, n]),
        hooks: (),
    };
    let merge = Run::new(&merge_splits::<Plain>::KERNEL, &settings, [heads, 1, 1], args);
    all.push(subject("merge of splits", &[&merge]));

    let tokens = 50;
    let kernel = chunk_attention::<Stock, Plain, PagedKv>::KERNEL;
    let settings = format!("{pages},block_q=16,stages=2");
    let chunk = |cache: &Cache, times: f32| {
        let k: Vec<f16> =
            half(22, tokens * heads * D).iter().map(|k| f16::from_f32(k.to_f32() * times)).collect();
        let args = ChunkAttentionArgs {
            q: given(&half(21, tokens * n * D)).tensor([tokens, n, D]).into(),
            k: given(&k).tensor([tokens, heads, D]).into(),
            v: given(&half(23, tokens * heads * D)).tensor([tokens, heads, D]).into(),
            before: 60,
            first_query: 0,
            scale: 0.125,
            kv: cache.kv(1),
            out: filled(7.0, [tokens, n, D]),
            lse: filled(7.0, [tokens, n]),
            codecs: (),
            hooks: (),
        };
        Run::new(&kernel, &settings, [4, heads, 1], args)
    };
    let (plain, growing, large) = (chunk(&caches[0], 1.0), chunk(&caches[1], 1.0), chunk(&caches[0], 60.0));
    all.push(subject("chunk attention, two stages", &[&plain, &growing, &large]));

    let (m, n, k) = (70, 40, 144);
    let args = MatmulArgs {
        a: given(&half(4, m * k)).tensor([m, k]),
        b: given(&half(5, k * n)).tensor([k, n]),
        out: filled(9.0, [m, n]),
    };
    let matmul = Run::new(&matmul::KERNEL, "bm=64,stages=3", [1, 2, 1], args);
    all.push(subject("matmul, three stages", &[&matmul]));

    let (rows, cols) = (6, 1000);
    let args = SoftmaxArgs {
        x: given(&random(3, rows * cols)).tensor([rows, cols]),
        out: filled(9.0, [rows, cols]),
    };
    let softmax = Run::new(&softmax::KERNEL, "rows_per_program=4,block=1024", [2, 1, 1], args);
    all.push(subject("softmax", &[&softmax]));

    let (heads, tokens, format) = (2, 40, "K4V2g2.4");
    let paged = PagedFormat::new(format.parse().unwrap(), D as u32, PAGE as u32).unwrap();
    let per_head = usize::div_ceil(tokens, paged.tokens_per_page());
    let dest: Vec<i32> = (0..heads * tokens).map(|i| 2 * (i % tokens) as i32).collect();
    let ids: Vec<i32> = (0..(heads * per_head) as i32).rev().collect();
    let args = WriteChunkArgs {
        keys: given(&half(1, tokens * heads * D)).tensor([tokens, heads, D]).into(),
        values: given(&half(2, tokens * heads * D)).tensor([tokens, heads, D]).into(),
        words: given(&random(3, heads * tokens)).tensor([heads, tokens]),
        dest: given(&dest).tensor([heads, tokens]),
        before: 0,
        kv: PagedKvArgs {
            arena: given(&vec![0x5A; heads * per_head * PAGE]).slice_mut(),
            slots: given(&[0]).tensor([1]),
            table: given(&ids).tensor([1, heads, per_head]),
            lengths: given(&vec![0; heads * 4]).tensor([1, heads, 4]),
        },
        codecs: (),
    };
    let settings = format!("tiering={format},head_dim={D},page_bytes={PAGE},block=16");
    let write = Run::new(&write_chunk::<Stock>::KERNEL, &settings, [tokens.div_ceil(16), heads, 1], args);
    all.push(subject("chunk writer", &[&write]));

    // More requests than a tile, most of which find no page any more.
    let (requests, tiles) = (140, 2);
    let sums: Vec<i32> = (0..requests * tiles * 2).map(|i| (i * 7 % 5) as i32).collect();
    let args = ScanPagesArgs {
        sums: given(&sums).tensor([requests, tiles, 2]),
        cursors: given(&[11, 90]).tensor_mut([2]),
        bases: filled(-7, [requests, tiles, 2]),
        granted: filled(-7, [requests]),
        needs: filled(-7, [requests]),
    };
    let scan = Run::new(&scan_pages::KERNEL, "block=128", [1, 1, 1], args);
    all.push(subject("scan of pages", &[&scan]));
    all
}

// ---- the tree ----

/// Visits every statement; those for which the visitor says false are removed.
fn visit(body: &mut Vec<Stmt>, f: &mut dyn FnMut(&mut Stmt) -> bool) {
    body.retain_mut(|stmt| {
        if let StmtKind::Block(inner) = &mut stmt.kind {
            visit(inner, f);
        }
        f(stmt)
    });
}

fn visit_all(ast: &mut Ast, f: &mut dyn FnMut(&mut Stmt) -> bool) {
    for item in &mut ast.items {
        if let Item::Func(func) = item
            && let Some(body) = &mut func.body
        {
            visit(body, f);
        }
    }
}

/// Whether an instruction is of a kind.
fn is(stmt: &Stmt, kind: &str) -> bool {
    let StmtKind::Instr(i) = &stmt.kind else { return false };
    let has = |m: &str| i.mods.iter().any(|x| x == m);
    match kind {
        "barrier" => {
            matches!(i.base.as_str(), "bar" | "barrier") && (has("sync") || has("red")) && !has("warp")
        }
        "wait" => i.base == "cp" && (has("wait_group") || has("wait_all")),
        "mma" => i.base == "mma",
        _ => mask_operand(stmt).is_some(),
    }
}

/// Index of the membermask among the operands.
fn mask_operand(stmt: &Stmt) -> Option<usize> {
    let StmtKind::Instr(i) = &stmt.kind else { return None };
    let at = match i.base.as_str() {
        "shfl" | "vote" | "match" | "redux" | "elect" => i.operands.len() - 1,
        "bar" if i.mods.iter().any(|m| m == "warp") => 0,
        _ => return None,
    };
    matches!(i.operands[at], Operand::Imm(_)).then_some(at)
}

fn count(ast: &Ast, kind: &str) -> usize {
    let mut n = 0;
    visit_all(&mut ast.clone(), &mut |stmt| {
        n += usize::from(is(stmt, kind));
        true
    });
    n
}

/// Changes the how-manieth statement of a kind; false removes it.
fn edit(ast: &mut Ast, kind: &str, number: usize, change: &mut dyn FnMut(&mut Stmt) -> bool) {
    let mut seen = 0;
    visit_all(ast, &mut |stmt| {
        if !is(stmt, kind) {
            return true;
        }
        seen += 1;
        seen - 1 != number || change(stmt)
    });
}

/// Sized variables in shared memory, in the module and in its functions.
fn shared_sizes(ast: &mut Ast) -> Vec<&mut u64> {
    let mut out = Vec::new();
    for item in &mut ast.items {
        match item {
            Item::Var(v) if v.space == Space::Shared => out.extend(v.dims.iter_mut().flatten().take(1)),
            Item::Func(f) => {
                for stmt in f.body.iter_mut().flatten() {
                    if let StmtKind::Var(v) = &mut stmt.kind
                        && v.space == Space::Shared
                    {
                        out.extend(v.dims.iter_mut().flatten().take(1));
                    }
                }
            }
            _ => {}
        }
    }
    out
}

fn fragment(stmt: &mut Stmt, operand: usize) -> &mut Vec<Operand> {
    match &mut stmt.kind {
        StmtKind::Instr(i) => match &mut i.operands[operand] {
            Operand::Vector(list) => list,
            other => panic!("an mma has vectors, found {other:?}"),
        },
        other => panic!("not an instruction: {other:?}"),
    }
}

/// What is left of an instruction that is removed: of a barrier that reduces, each thread's own truth value; of others nothing, which is false.
fn left_alone(stmt: &mut Stmt) -> bool {
    let StmtKind::Instr(i) = &mut stmt.kind else { return false };
    if !i.mods.iter().any(|m| m == "red") {
        return false;
    }
    i.base = "mov".into();
    i.mods = vec!["pred".into()];
    // The barrier's number stands between result and source.
    i.operands.remove(1);
    true
}

fn mutated(s: &Subject, change: &Change) -> Ast {
    let mut ast = s.ast.clone();
    match change {
        Change::Remove(kind, n) => edit(&mut ast, kind, *n, &mut left_alone),
        Change::ShortShared(n) => *shared_sizes(&mut ast)[*n] -= 4,
        Change::Swap { mma, operand, elements: [a, b] } => edit(&mut ast, "mma", *mma, &mut |stmt| {
            fragment(stmt, *operand).swap(*a, *b);
            true
        }),
        Change::ClearBit { collective, bit } => edit(&mut ast, "mask", *collective, &mut |stmt| {
            let at = mask_operand(stmt).expect("counted by the same rule");
            if let StmtKind::Instr(i) = &mut stmt.kind {
                i.operands[at] = Operand::Imm(Expr::Int(u64::from(!(1u32 << bit)), false));
            }
            true
        }),
        Change::ShortArgument(_) | Change::ShortDynamic => {}
    }
    ast
}

fn changes(s: &Subject) -> Vec<Change> {
    let mut out = Vec::new();
    for kind in ["barrier", "wait"] {
        out.extend((0..count(&s.ast, kind)).map(|n| Change::Remove(kind, n)));
    }
    out.extend((0..s.cases[0].buffers().count()).map(Change::ShortArgument));
    out.extend((0..shared_sizes(&mut s.ast.clone()).len()).map(Change::ShortShared));
    if s.artifact.dynamic_shared_bytes > 0 {
        out.push(Change::ShortDynamic);
    }
    // All lanes take their turn over the collectives.
    out.extend(
        (0..count(&s.ast, "mask")).map(|n| Change::ClearBit { collective: n, bit: (n * 13 % 32) as u32 }),
    );
    for mma in 0..count(&s.ast, "mma") {
        for operand in 0..4 {
            let mut names = Vec::new();
            edit(&mut s.ast.clone(), "mma", mma, &mut |stmt| {
                names.clone_from(fragment(stmt, operand));
                true
            });
            let pairs: Vec<[usize; 2]> =
                (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| [a, b])).collect();
            // One pair each, all pairs in turn; exchanging a register with itself is no change.
            if let Some(elements) =
                (0..pairs.len()).map(|i| pairs[(mma + i) % pairs.len()]).find(|[a, b]| names[*a] != names[*b])
            {
                out.push(Change::Swap { mma, operand, elements });
            }
        }
    }
    out
}

// ---- running ----

fn configs() -> [Config; 3] {
    let base = Config { budget: 20_000_000, ..Config::default() };
    [
        base.clone(),
        Config { seed: 7, ..base.clone() },
        Config { seed: 3, divergence: Divergence::Independent, ..base },
    ]
}

/// What a run left, or what was found.
fn execute(
    s: &Subject,
    case: &Case,
    ast: &Ast,
    short: &Change,
    config: &Config,
) -> Result<Vec<Vec<u8>>, String> {
    let module = Module::from_ast(ast.clone()).map_err(|e| e.to_string())?;
    let mut machine = Machine::new(config.clone());
    let (mut buffers, mut args) = (Vec::new(), Vec::new());
    for arg in &case.args {
        args.push(match arg {
            CaseArg::Scalar(value) => scalar(*value),
            CaseArg::Buffer(slot) => {
                let mut len = slot.bytes.len();
                if matches!(short, Change::ShortArgument(n) if *n == buffers.len()) {
                    len -= number::size(slot.dtype);
                }
                let at = machine.alloc(len.max(1) as u64, 256).map_err(|e| e.to_string())?;
                machine.write(at, &slot.bytes[..len]).map_err(|e| e.to_string())?;
                machine.name(at, &slot.name);
                buffers.push((at, len));
                Arg::U64(at)
            }
        });
    }
    let dynamic = s.artifact.dynamic_shared_bytes - if matches!(short, Change::ShortDynamic) { 4 } else { 0 };
    let shape = LaunchConfig {
        grid: case.grid,
        block: [s.artifact.block_threads, 1, 1],
        dynamic_shared_bytes: dynamic,
    };
    let report = machine.launch(&module, &s.artifact.entry, shape, &args).map_err(|e| e.to_string())?;
    if let Some(finding) = report.errors().next() {
        return Err(finding.to_string());
    }
    let read = |(at, len): (u64, usize)| {
        let mut out = vec![0; len];
        machine.read(at, &mut out).map_err(|e| e.to_string())?;
        Ok(out)
    };
    buffers.into_iter().map(read).collect()
}

/// Why a mutant that nothing found is no fault; `None` if it may be one.
fn harmless(s: &Subject, change: &Change) -> Option<&'static str> {
    match change {
        // Bounds are exact, so a run without a fault did not touch what is gone.
        Change::ShortArgument(_) => Some("nothing accesses the last element for these arguments"),
        Change::ShortShared(_) | Change::ShortDynamic => Some("nothing accesses the last word: padding"),
        Change::Swap { mma, operand, elements: [a, b] } => {
            let same = |list: &[Operand]| vec![(list[*a].clone(), list[*b].clone())];
            if never_differ(s, *mma, *operand, same) {
                return Some("the registers hold the same bits in every lane, every time");
            }
            // Rows or columns of padding: what the exchanged registers are multiplied with is zero.
            let zeros = |list: &[Operand]| list.iter().map(|o| (o.clone(), zero())).collect();
            let padding = matches!(operand, 1 | 2) && never_differ(s, *mma, 3 - operand, zeros);
            if padding {
                return Some("they are multiplied by zeros alone: padding");
            }
            let unread = |results: [usize; 2]| unread(s, *mma, results);
            let (row, half) = ([a & 1, b & 1], [a >> 1, b >> 1]);
            let no_row = match operand {
                0 | 3 => unread([*a, *b]),
                // Of the left matrix a register has rows of one half, which two sums are of.
                1 => row[0] == row[1] && unread([2 * row[0], 2 * row[0] + 1]),
                _ => false,
            };
            if no_row {
                return Some("nobody reads these sums: rows of padding");
            }
            // And one half of what is summed over, as the right matrix's registers have.
            let zero_half = |list: &[Operand]| vec![(list[half[0]].clone(), zero())];
            let no_term = *operand == 1 && half[0] == half[1] && never_differ(s, *mma, 2, zero_half);
            no_term.then_some("they are multiplied by zeros alone: padding")
        }
        // Copies land as late as the waits allow, and what touches one in flight is an error, as is one never waited for.
        Change::Remove("wait", _) => Some("nothing is in flight there: other waits cover every copy"),
        // The order of accesses, to shared memory and within a block to global memory, is judged by happens-before, whatever the
        // schedule was.
        Change::Remove("barrier", _) => Some("other barriers order all accesses to memory: redundant"),
        _ => None,
    }
}

/// Whether results of an `mma` may be anything: runs the kernel with others.
fn unread(s: &Subject, mma: usize, elements: [usize; 2]) -> bool {
    let mut ast = s.ast.clone();
    edit(&mut ast, "mma", mma, &mut |stmt| {
        let mut parts = vec![stmt.clone()];
        for element in elements {
            let result = fragment(stmt, 0)[element].clone();
            parts.push(template("mov.b32 %x, 0x7FC00001;", |i| i.operands[0] = result.clone()));
        }
        stmt.kind = StmtKind::Block(parts);
        true
    });
    let run = |ast: &Ast, case: &Case| execute(s, case, ast, change_nothing(), &configs()[0]);
    s.cases.iter().all(|case| matches!((run(&ast, case), run(&s.ast, case)), (Ok(a), Ok(b)) if a == b))
}

/// The statement of a text of one instruction, changed.
fn template(text: &str, change: impl Fn(&mut leankv_ptx::syntax::ast::Instr)) -> Stmt {
    let text = format!(".version 8.0\n.target sm_80\n.entry x() {{\n.reg .b32 %x;\n{{\n{text}\n}}\n}}");
    let mut ast = Ast::parse(&text).expect("the text is fixed");
    let mut found = None;
    visit_all(&mut ast, &mut |stmt| {
        if let StmtKind::Instr(i) = &mut stmt.kind {
            change(i);
            found = Some(stmt.clone());
        }
        true
    });
    found.expect("an instruction stands in the text")
}

/// Whether pairs of registers of an operand of an `mma` hold the same bits in every lane, every time: runs the unharmed
/// kernel with a trap for when they differ. Results are compared after the product, operands before it.
fn never_differ(
    s: &Subject,
    mma: usize,
    operand: usize,
    pairs: impl Fn(&[Operand]) -> Vec<(Operand, Operand)>,
) -> bool {
    let mut ast = s.ast.clone();
    edit(&mut ast, "mma", mma, &mut |stmt| {
        let mut parts = vec![stmt.clone()];
        let at = if operand == 0 { 1 } else { 0 };
        for (left, right) in pairs(fragment(stmt, operand)) {
            parts.insert(at, trap_if_different(left, right));
        }
        stmt.kind = StmtKind::Block(parts);
        true
    });
    s.cases.iter().all(|case| execute(s, case, &ast, change_nothing(), &configs()[0]).is_ok())
}

/// `{ if left != right { trap } }`.
fn trap_if_different(left: Operand, right: Operand) -> Stmt {
    let text = ".version 8.0\n.target sm_80\n.entry x() {\n{\n.reg .pred %differ;\nsetp.ne.b32 %differ, 0, 0;\n@%differ trap;\n}\n}";
    let mut ast = Ast::parse(text).expect("the text is fixed");
    let mut found = None;
    visit_all(&mut ast, &mut |stmt| {
        match &mut stmt.kind {
            StmtKind::Instr(i) if i.base == "setp" => {
                i.operands[1..].clone_from_slice(&[left.clone(), right.clone()]);
            }
            StmtKind::Block(_) => found = Some(stmt.clone()),
            _ => {}
        }
        true
    });
    found.expect("a block stands in the text")
}

fn zero() -> Operand {
    Operand::Imm(Expr::Int(0, false))
}

fn change_nothing() -> &'static Change {
    &Change::Remove("", 0)
}

#[derive(Clone, Copy, Default)]
struct Tally {
    planted: usize,
    by_check: usize,
    by_result: usize,
    harmless: usize,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.planted += other.planted;
        self.by_check += other.by_check;
        self.by_result += other.by_result;
        self.harmless += other.harmless;
    }
}

/// With what a subject is run: its arguments in every configuration, and the others in the first.
fn runs(s: &Subject) -> Vec<(&Case, Config)> {
    let others = s.cases[1..].iter().map(|case| (case, configs()[0].clone()));
    configs().into_iter().map(|config| (&s.cases[0], config)).chain(others).collect()
}

/// How a mutant is found: by a check, a fault or an error, or by its result.
enum Found {
    Check,
    Result,
}

fn find_out(s: &Subject, change: &Change, right: &[Vec<Vec<u8>>]) -> Option<Found> {
    let ast = mutated(s, change);
    runs(s).iter().zip(right).find_map(|((case, config), right)| {
        match execute(s, case, &ast, change, config) {
            Err(_) => Some(Found::Check),
            // A shortened buffer is compared as far as it goes.
            Ok(out) => out.iter().zip(right).any(|(o, r)| o[..] != r[..o.len()]).then_some(Found::Result),
        }
    })
}

#[test]
fn faults_planted_in_compiled_kernels_are_found() {
    let mut tallies: BTreeMap<(usize, Class), Tally> = BTreeMap::new();
    let mut explained: BTreeMap<String, usize> = BTreeMap::new();
    let mut missed = Vec::new();
    let subjects = subjects();
    for (k, s) in subjects.iter().enumerate() {
        let started = std::time::Instant::now();
        let run = |(case, config): &(&Case, Config)| {
            execute(s, case, &s.ast, change_nothing(), config)
                .unwrap_or_else(|e| panic!("{}: {e}\n{}", s.name, s.artifact.ptx))
        };
        let right: Vec<_> = runs(s).iter().map(run).collect();
        for change in changes(s) {
            let class = change.class();
            let t = tallies.entry((k, class)).or_default();
            t.planted += 1;
            match find_out(s, &change, &right) {
                Some(Found::Check) => t.by_check += 1,
                Some(Found::Result) => t.by_result += 1,
                None => match harmless(s, &change) {
                    Some(why) => {
                        t.harmless += 1;
                        *explained.entry(format!("{}: {}: {why}", s.name, class.name())).or_default() += 1;
                    }
                    None => missed.push(format!("{}: {change:?}", s.name)),
                },
            }
        }
        println!("{}: {:.1} s", s.name, started.elapsed().as_secs_f32());
    }
    let sums = Class::ALL.map(|class| {
        let mut sum = Tally::default();
        tallies.iter().filter(|(k, _)| k.1 == class).for_each(|(_, t)| sum.add(t));
        (class, sum)
    });
    println!("{}", table(&subjects, &tallies, &sums));
    for (what, n) in &explained {
        println!("{n} x {what}");
    }
    assert!(missed.is_empty(), "{missed:#?}");
    // A check that has gone blind makes mutants look harmless: the figures may rise, not fall.
    for (class, sum) in sums {
        let (found, least) = ([sum.by_check, sum.by_result], class.floor());
        assert!(
            found[0] >= least[0] && found[1] >= least[1],
            "{}: found by a check and by the result {found:?}, it was {least:?}",
            class.name()
        );
    }
}

/// Found of those that are faults of all that were planted, by kernel and class.
fn table(subjects: &[Subject], tallies: &BTreeMap<(usize, Class), Tally>, sums: &[(Class, Tally)]) -> String {
    let mut out = format!("{:44}", "found / faults of planted (found by a check)");
    for class in Class::ALL {
        write!(out, "{:>24}", class.name()).expect("a string takes everything");
    }
    let cell = |t: &Tally| {
        let (found, faults) = (t.by_check + t.by_result, t.planted - t.harmless);
        format!("{found} / {faults} of {} ({})", t.planted, t.by_check)
    };
    for (k, s) in subjects.iter().enumerate() {
        write!(out, "\n{:44}", s.name).expect("a string takes everything");
        for class in Class::ALL {
            let t = tallies.get(&(k, class)).copied().unwrap_or_default();
            write!(out, "{:>24}", cell(&t)).expect("a string takes everything");
        }
    }
    write!(out, "\n{:44}", "all").expect("a string takes everything");
    sums.iter().for_each(|(_, t)| write!(out, "{:>24}", cell(t)).expect("a string takes everything"));
    out
}
