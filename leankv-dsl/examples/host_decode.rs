//! Decode attention over paged K8V4 keys and values on one host thread, from hand-written tile IR: 32 query heads, 8 KV heads,
//! head dim 128, 4096 tokens. Prints compile, load and run time and the largest error against plain Rust.
//!
//! `cargo run --release -p leankv-dsl --example host_decode [-- ir|llvm|opt]` (the words print the texts).

use std::time::Instant;

use half::f16;
use leankv_dsl::codegen::host::{HostArg, HostKernel, HostOptions, compile};
use leankv_dsl::ir;

const HEADS: usize = 8;
const GROUP: usize = 4;
const D: usize = 128;
const TOKENS: usize = 4096;
const BLOCK: usize = 64;
/// The published page for K8V4 at head dim 128.
const PAGE_TOKENS: usize = 32;
const PAGE_BYTES: usize = 6784;
const K_META: usize = 4096;
const V_AT: usize = 4224;
const V_META: usize = 6272;
const SCORE: usize = 6400;
const PAGES: usize = TOKENS / PAGE_TOKENS;

/// Offsets of rows of `words` words of `bits` bits from per-token byte offsets `%{name}`.
fn rows(name: &str, words: usize, shift: u32) -> String {
    format!(
        "    %{name}sh = constant {shift} : tile<{BLOCK}xi64>
    %{name}w = shr %{name}, %{name}sh : tile<{BLOCK}xi64>
    %{name}1 = expand_dims %{name}w axis 1 : tile<{BLOCK}x1xi64>
    %{name}b = broadcast %{name}1 : tile<{BLOCK}x{words}xi64>
    %{name}i = iota : tile<{words}xi64>
    %{name}i1 = expand_dims %{name}i axis 0 : tile<1x{words}xi64>
    %{name}ib = broadcast %{name}i1 : tile<{BLOCK}x{words}xi64>
    %{name}o = add %{name}b, %{name}ib : tile<{BLOCK}x{words}xi64>
    %{name}m1 = expand_dims %valid axis 1 : tile<{BLOCK}x1xi1>
    %{name}m = broadcast %{name}m1 : tile<{BLOCK}x{words}xi1>
"
    )
}

/// A per-token f16 of the pages as a row of f32: `%{name}r`.
fn meta(name: &str, at: usize, zero: bool) -> String {
    let at = at + 2 * usize::from(zero);
    format!(
        "    %{name}c = constant {at} : tile<{BLOCK}xi64>
    %{name}4 = constant 4 : tile<{BLOCK}xi64>
    %{name}s = mul %slot, %{name}4 : tile<{BLOCK}xi64>
    %{name}a = add %base, %{name}s : tile<{BLOCK}xi64>
    %{name}b = add %{name}a, %{name}c : tile<{BLOCK}xi64>
    %{name}1 = constant 1 : tile<{BLOCK}xi64>
    %{name}h = shr %{name}b, %{name}1 : tile<{BLOCK}xi64>
    %{name}x = load %halves[%{name}h] mask %valid : tile<{BLOCK}xf16>
    %{name} = cast %{name}x : tile<{BLOCK}xf32>
    %{name}e = expand_dims %{name} axis 0 : tile<1x{BLOCK}xf32>
    %{name}r = broadcast %{name}e : tile<{GROUP}x{BLOCK}xf32>
"
    )
}

fn kernel() -> String {
    let (w, v) = (D / 4, D / 8);
    let k_rows = rows("kat", w, 2);
    let v_rows = rows("vat", v, 2);
    let metas = meta("ks", K_META, false)
        + &meta("kz", K_META, true)
        + &meta("vs", V_META, false)
        + &meta("vz", V_META, true);
    let tb = format!("tile<{BLOCK}xi64>");
    let gb = format!("tile<{GROUP}x{BLOCK}xf32>");
    let gd = format!("tile<{GROUP}x{D}xf32>");
    format!(
        "kernel @decode(%pq q: ptr<f16> read, %arena pages: ptr<u8> read, %table table: ptr<i32> read, %scores scores: ptr<f32> read_write, %po out: ptr<f32> write, %n n: i32, %scale scale: f32) num_warps 4 {{
  %head = program_id x : i32
  %words = ptr_cast %arena : ptr<u32>
  %halves = ptr_cast %arena : ptr<f16>
  %g = iota : tile<{GROUP}xi32>
  %hg = constant {GROUP} : i32
  %q0 = mul %head, %hg : i32
  %q0s = splat %q0 : tile<{GROUP}xi32>
  %qr = add %q0s, %g : tile<{GROUP}xi32>
  %dd = constant {D} : tile<{GROUP}xi32>
  %qb = mul %qr, %dd : tile<{GROUP}xi32>
  %qb1 = expand_dims %qb axis 1 : tile<{GROUP}x1xi32>
  %qbb = broadcast %qb1 : tile<{GROUP}x{D}xi32>
  %d = iota : tile<{D}xi32>
  %d1 = expand_dims %d axis 0 : tile<1x{D}xi32>
  %db = broadcast %d1 : tile<{GROUP}x{D}xi32>
  %qo = add %qbb, %db : tile<{GROUP}x{D}xi32>
  %q = load %pq[%qo] : tile<{GROUP}x{D}xf16>
  %qf = cast %q : {gd}
  %qsum = reduce add %qf axis 1 : tile<{GROUP}xf32>
  %0 = constant 0 : i32
  %step = constant {BLOCK} : i32
  %m0 = constant -1e30 : tile<{GROUP}xf32>
  %l0 = constant 0.0 : tile<{GROUP}xf32>
  %acc0 = constant 0.0 : {gd}
  %pages_per = constant {PAGES} : i32
  %tb = mul %head, %pages_per : i32
  %m, %l, %acc = for %0 to %n step %step carry %m0, %l0, %acc0 : tile<{GROUP}xf32>, tile<{GROUP}xf32>, {gd} {{ |%t: i32, %mc: tile<{GROUP}xf32>, %lc: tile<{GROUP}xf32>, %accc: {gd}|
    %i = iota : tile<{BLOCK}xi32>
    %ts = splat %t : tile<{BLOCK}xi32>
    %tok = add %ts, %i : tile<{BLOCK}xi32>
    %ns = splat %n : tile<{BLOCK}xi32>
    %valid = cmp lt %tok, %ns : tile<{BLOCK}xi1>
    %pt = constant {PAGE_TOKENS} : tile<{BLOCK}xi32>
    %pi = div %tok, %pt : tile<{BLOCK}xi32>
    %si = rem %tok, %pt : tile<{BLOCK}xi32>
    %slot = cast %si : {tb}
    %tbs = splat %tb : tile<{BLOCK}xi32>
    %ti = add %tbs, %pi : tile<{BLOCK}xi32>
    %page = load %table[%ti] mask %valid : tile<{BLOCK}xi32>
    %page64 = cast %page : {tb}
    %pb = constant {PAGE_BYTES} : {tb}
    %base = mul %page64, %pb : {tb}
    %kbytes = constant {D} : {tb}
    %krow = mul %slot, %kbytes : {tb}
    %kat = add %base, %krow : {tb}
{k_rows}
    %kw = load %words[%kato] mask %katm : tile<{BLOCK}x{w}xu32>
    %kc = unpack %kw : tile<{BLOCK}x{D}xcode8>
    %kf = cast %kc : tile<{BLOCK}x{D}xf16>
    %kt = transpose %kf perm [1, 0] : tile<{D}x{BLOCK}xf16>
    %zero = constant 0.0 : {gb}
    %dots = dot %q, %kt, %zero : {gb}
{metas}
    %qs1 = expand_dims %qsum axis 1 : tile<{GROUP}x1xf32>
    %qsb = broadcast %qs1 : {gb}
    %kzq = mul %qsb, %kzr : {gb}
    %raw = fma %dots, %ksr, %kzq : {gb}
    %ss = splat %scale : {gb}
    %scaled = mul %raw, %ss : {gb}
    %v1 = expand_dims %valid axis 0 : tile<1x{BLOCK}xi1>
    %vb = broadcast %v1 : tile<{GROUP}x{BLOCK}xi1>
    %low = constant -1e30 : {gb}
    %logits = select %vb, %scaled, %low : {gb}
    %bm = reduce max %logits axis 1 : tile<{GROUP}xf32>
    %mn = max %mc, %bm : tile<{GROUP}xf32>
    %md = sub %mc, %mn : tile<{GROUP}xf32>
    %alpha = exp2 %md : tile<{GROUP}xf32>
    %mn1 = expand_dims %mn axis 1 : tile<{GROUP}x1xf32>
    %mnb = broadcast %mn1 : {gb}
    %shifted = sub %logits, %mnb : {gb}
    %p = exp2 %shifted : {gb}
    %ps = reduce add %p axis 1 : tile<{GROUP}xf32>
    %la = mul %lc, %alpha : tile<{GROUP}xf32>
    %ln = add %la, %ps : tile<{GROUP}xf32>
    %pvz = mul %p, %vzr : {gb}
    %zs = reduce add %pvz axis 1 : tile<{GROUP}xf32>
    %pvs = mul %p, %vsr : {gb}
    %pv = cast %pvs : tile<{GROUP}x{BLOCK}xf16>
    %vbytes = constant {} : {tb}
    %vrow = mul %slot, %vbytes : {tb}
    %vat0 = add %base, %vrow : {tb}
    %vc0 = constant {V_AT} : {tb}
    %vat = add %vat0, %vc0 : {tb}
{v_rows}
    %vw = load %words[%vato] mask %vatm : tile<{BLOCK}x{v}xu32>
    %vc = unpack %vw : tile<{BLOCK}x{D}xcode4>
    %vf = cast %vc : tile<{BLOCK}x{D}xf16>
    %al1 = expand_dims %alpha axis 1 : tile<{GROUP}x1xf32>
    %alb = broadcast %al1 : {gd}
    %zs1 = expand_dims %zs axis 1 : tile<{GROUP}x1xf32>
    %zsb = broadcast %zs1 : {gd}
    %start = fma %accc, %alb, %zsb : {gd}
    %accn = dot %pv, %vf, %start : {gd}
    %top = reduce max %p axis 0 : tile<{BLOCK}xf32>
    %nb = mul %head, %n : i32
    %nbs = splat %nb : tile<{BLOCK}xi32>
    %sat = add %nbs, %tok : tile<{BLOCK}xi32>
    %old = load %scores[%sat] mask %valid : tile<{BLOCK}xf32>
    %new = add %old, %top : tile<{BLOCK}xf32>
    store %scores[%sat], %new mask %valid
    yield %mn, %ln, %accn
  }}
  %l1 = expand_dims %l axis 1 : tile<{GROUP}x1xf32>
  %lb = broadcast %l1 : {gd}
  %o = div %acc, %lb : {gd}
  store %po[%qo], %o
  return
}}
",
        D / 2
    )
}

struct Lcg(u64);

impl Lcg {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Quantises a row to `bits` and gives scale, zero and the values that the codes stand for.
fn quantise(x: &[f32], bits: u32, put: &mut dyn FnMut(usize, u8)) -> (f16, f16, Vec<f32>) {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let most = ((1u32 << bits) - 1) as f32;
    let (scale, zero) = (f16::from_f32((high - low) / most), f16::from_f32(low));
    let (s, z) = (scale.to_f32(), zero.to_f32());
    let back = x
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let code = ((v - z) / s).round_ties_even().clamp(0.0, most);
            put(i, code as u8);
            s * code + z
        })
        .collect();
    (scale, zero, back)
}

fn main() {
    let text = kernel();
    let wants = |word: &str| std::env::args().any(|arg| arg == word);
    let func = ir::parse("decode.tile", &text).unwrap_or_else(|e| panic!("{e}"));
    if wants("ir") {
        println!("{func}");
    }
    let options = HostOptions { keep_llvm_ir: wants("llvm") || wants("opt"), ..HostOptions::default() };
    let mut artifact = None;
    for _ in 0..3 {
        let start = Instant::now();
        artifact = Some(compile(&func, &options).unwrap_or_else(|e| panic!("{e}")));
        println!("compile {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    let artifact = artifact.expect("compiled");
    if wants("llvm") {
        println!("{}", artifact.llvm_ir);
    }
    if wants("opt") {
        println!("{}", artifact.optimised_llvm_ir);
    }
    if wants("object") {
        std::fs::write("/tmp/decode.o", &artifact.object).expect("writing /tmp/decode.o");
    }
    println!(
        "object {} bytes, scratch {} bytes, {:?}",
        artifact.object.len(),
        artifact.scratch_bytes,
        artifact.notes
    );
    let start = Instant::now();
    let kernel = HostKernel::load(&artifact).unwrap_or_else(|e| panic!("{e}"));
    println!("load {:.2} ms", start.elapsed().as_secs_f64() * 1e3);

    let mut lcg = Lcg(1);
    let q: Vec<f16> = (0..HEADS * GROUP * D).map(|_| f16::from_f32(lcg.unit())).collect();
    let mut pages = vec![0u8; HEADS * PAGES * PAGE_BYTES];
    let mut table = vec![0i32; HEADS * PAGES];
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in 0..HEADS {
        for page in 0..PAGES {
            // Pages of different heads interleave.
            let id = page * HEADS + head;
            table[head * PAGES + page] = id as i32;
            let at = id * PAGE_BYTES;
            for slot in 0..PAGE_TOKENS {
                let row: Vec<f32> = (0..D).map(|_| lcg.unit()).collect();
                let (s, z, back) = quantise(&row, 8, &mut |i, code| pages[at + slot * D + i] = code);
                pages[at + K_META + 4 * slot..][..2].copy_from_slice(&s.to_le_bytes());
                pages[at + K_META + 4 * slot + 2..][..2].copy_from_slice(&z.to_le_bytes());
                keys.push(back);
                let row: Vec<f32> = (0..D).map(|_| lcg.unit()).collect();
                let (s, z, back) = quantise(&row, 4, &mut |i, code| {
                    pages[at + V_AT + slot * D / 2 + i / 2] |= code << (4 * (i % 2));
                });
                pages[at + V_META + 4 * slot..][..2].copy_from_slice(&s.to_le_bytes());
                pages[at + V_META + 4 * slot + 2..][..2].copy_from_slice(&z.to_le_bytes());
                values.push(back);
            }
        }
    }
    let _ = SCORE;
    let scale = std::f32::consts::LOG2_E / (D as f32).sqrt();
    let mut out = vec![0f32; HEADS * GROUP * D];
    for tokens in [TOKENS, TOKENS - 37, 1] {
        let mut scores = vec![0f32; HEADS * TOKENS];
        let args = [
            HostArg::from(q.as_ptr()),
            HostArg::from(pages.as_ptr()),
            HostArg::from(table.as_ptr()),
            HostArg::from(scores.as_mut_ptr()),
            HostArg::from(out.as_mut_ptr()),
            HostArg::from(tokens as i32),
            HostArg::from(scale),
        ];
        let mut best = f64::MAX;
        for _ in 0..50 {
            let start = Instant::now();
            // SAFETY: the buffers have the sizes that the kernel's constants say.
            unsafe { kernel.launch([HEADS as u32, 1, 1], &args, 1) }.unwrap_or_else(|e| panic!("{e}"));
            best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
        let mut worst = 0f32;
        for head in 0..HEADS {
            let token = |t: usize| head * TOKENS + t;
            for g in 0..GROUP {
                let q: Vec<f32> = q[(head * GROUP + g) * D..][..D].iter().map(|x| x.to_f32()).collect();
                let logits: Vec<f32> = (0..tokens)
                    .map(|t| keys[token(t)].iter().zip(&q).map(|(a, b)| a * b).sum::<f32>() * scale)
                    .collect();
                let top = logits.iter().copied().fold(f32::MIN, f32::max);
                let p: Vec<f32> = logits.iter().map(|x| (x - top).exp2()).collect();
                let sum: f32 = p.iter().sum();
                for d in 0..D {
                    let want = (0..tokens).map(|t| p[t] * values[token(t)][d]).sum::<f32>() / sum;
                    worst = worst.max((want - out[(head * GROUP + g) * D + d]).abs());
                }
            }
        }
        println!("{tokens} tokens: {best:.3} ms, largest error {worst:.2e}");
        assert!(worst < 2e-3, "the output is wrong");
    }
}
