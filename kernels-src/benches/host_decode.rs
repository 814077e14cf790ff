//! The shipped decode attention kernel on one host thread: K8V4, 32 query heads, 8 KV heads, head dim 128, 4096 tokens.
//! Prints compile, load and run time and the largest error against plain Rust, then the time with the significance of the last step's
//! queries added, then with the next step's candidates looked for too, and what each is of the time without.
//!
//! `cargo bench -p leankv-kernels --bench host_decode [-- v3 object]` (`v3` compiles for AVX2 alone, `object` writes
//! the code of both for a disassembler).

use std::time::Instant;

use half::f16;
use leankv_dsl::codegen::host::{HostArg, HostKernel, HostOptions, compile};
use leankv_dsl::format::{KvFormat, PageLayout};
use leankv_dsl::lang::Settings;
use leankv_dsl::pass::{self, Facts};

const HEADS: usize = 8;
const GROUP: usize = 4;
const D: usize = 128;
const TOKENS: usize = 4096;
/// The published page at head dim 128.
const PAGE_BYTES: usize = 6784;

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
    let mut back = Vec::new();
    for (i, &v) in x.iter().enumerate() {
        let code = ((v - z) / s).round_ties_even().clamp(0.0, most);
        put(i, code as u8);
        back.push(s * code + z);
    }
    (scale, zero, back)
}

/// A view's arguments: pointer, extents, strides of all dimensions but the last.
fn view(args: &mut Vec<HostArg>, at: HostArg, shape: &[usize]) {
    args.push(at);
    args.extend(shape.iter().map(|&extent| HostArg::from(extent as i64)));
    for i in 1..shape.len() {
        args.push(HostArg::from(shape[i..].iter().product::<usize>() as i64));
    }
}

fn main() {
    let kernel = leankv_kernels::find("decode_attention").expect("the kernel is shipped");
    let settings = kernel.space().into_iter().find(|settings| {
        let spec = kernel.specialisation(settings).unwrap_or_default();
        spec.starts_with("tiering=K8V4,head_dim=128,group=4") && spec.contains("splits=1")
    });
    let mut settings = settings.expect("the specialisation is declared");
    let class = std::env::args().any(|arg| arg == "v3").then(|| "x86-64-v3".to_owned());
    let options = HostOptions { class, ..HostOptions::default() };
    let mut artifact = None;
    let build = |settings: &Settings| {
        let mut func = kernel.build(settings).unwrap_or_else(|e| panic!("{e}"));
        pass::standard().run(&mut func, &mut Facts::new()).unwrap_or_else(|e| panic!("{e}"));
        compile(&func, &options).unwrap_or_else(|e| panic!("{e}"))
    };
    for _ in 0..3 {
        let start = Instant::now();
        artifact = Some(build(&settings));
        println!("spec to object {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    let artifact = artifact.expect("compiled");
    let mut with = |what: &str| {
        settings.insert(what.to_owned(), "true".to_owned());
        build(&settings)
    };
    let (with_significance, with_candidates) = (with("significance"), with("candidates"));
    if std::env::args().any(|arg| arg == "object") {
        for (file, artifact) in [("decode.o", &artifact), ("decode_significance.o", &with_significance)] {
            std::fs::write(file, &artifact.object).unwrap_or_else(|e| panic!("writing {file}: {e}"));
        }
    }
    println!(
        "object {} bytes, scratch {} bytes, {:?}",
        artifact.object.len(),
        artifact.scratch_bytes,
        artifact.notes
    );
    let start = Instant::now();
    let loaded = HostKernel::load(&artifact).unwrap_or_else(|e| panic!("{e}"));
    println!("load {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    let [adding, looking] = [&with_significance, &with_candidates]
        .map(|artifact| HostKernel::load(artifact).unwrap_or_else(|e| panic!("{e}")));

    let format = KvFormat::affine(8, 4).expect("8 and 4 bits exist");
    let layout =
        PageLayout::derive(&format, D as u32, PAGE_BYTES as u32).expect("a page of this size holds tokens");
    let (page_tokens, pages_per_head) =
        (layout.tokens_per_page() as usize, TOKENS.div_ceil(layout.tokens_per_page() as usize));
    let mut lcg = Lcg(1);
    let q: Vec<f16> = (0..HEADS * GROUP * D).map(|_| f16::from_f32(lcg.unit())).collect();
    let mut pages = vec![0u32; HEADS * pages_per_head * PAGE_BYTES / 4];
    let mut table = vec![0i32; HEADS * pages_per_head];
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let bytes: &mut [u8] = {
        let len = pages.len() * 4;
        // SAFETY: the words' own memory, seen as bytes.
        unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast::<u8>(), len) }
    };
    for head in 0..HEADS {
        for page in 0..pages_per_head {
            // Pages of different heads interleave.
            let id = page * HEADS + head;
            table[head * pages_per_head + page] = id as i32;
            let at = id * PAGE_BYTES;
            for slot in 0..page_tokens {
                let row_of = |segment: &leankv_dsl::format::Segment| at + segment.row(slot as u32) as usize;
                let (key_at, value_at) = (row_of(layout.keys()), row_of(layout.values()));
                let (key_meta, value_meta) = (row_of(layout.key_meta()), row_of(layout.value_meta()));
                let row: Vec<f32> = (0..D).map(|_| lcg.unit()).collect();
                let (s, z, back) = quantise(&row, 8, &mut |i, code| bytes[key_at + i] = code);
                bytes[key_meta..][..2].copy_from_slice(&s.to_le_bytes());
                bytes[key_meta + 2..][..2].copy_from_slice(&z.to_le_bytes());
                keys.push(back);
                let row: Vec<f32> = (0..D).map(|_| lcg.unit()).collect();
                let (s, z, back) = quantise(&row, 4, &mut |i, code| {
                    bytes[value_at + i / 2] |= code << (4 * (i % 2));
                });
                bytes[value_meta..][..2].copy_from_slice(&s.to_le_bytes());
                bytes[value_meta + 2..][..2].copy_from_slice(&z.to_le_bytes());
                values.push(back);
            }
        }
    }
    let scale = 1.0 / (D as f32).sqrt();
    let heads = HEADS * GROUP;
    let (mut max, mut sum, mut acc) = (vec![0f32; heads], vec![0f32; heads], vec![0f32; heads * D]);
    // Queries of the step before, whose significance is added.
    let asked: Vec<f16> = (0..HEADS * GROUP * D).map(|_| f16::from_f32(lcg.unit())).collect();
    let asked_lse = [8f32; HEADS * GROUP];
    let slots = [0i32];
    for tokens in [TOKENS, TOKENS - 37, 1] {
        let positions = [tokens as i32 - 1];
        let lengths: Vec<i32> = (0..HEADS).flat_map(|_| [tokens as i32, 0, 0, 0]).collect();
        let mut args = Vec::new();
        view(&mut args, q.as_ptr().into(), &[1, heads, D]);
        view(&mut args, positions.as_ptr().into(), &[1]);
        args.push(scale.into());
        args.push(pages.as_mut_ptr().into());
        view(&mut args, slots.as_ptr().into(), &[1]);
        view(&mut args, table.as_ptr().into(), &[1, HEADS, pages_per_head]);
        view(&mut args, lengths.as_ptr().into(), &[1, HEADS, 4]);
        view(&mut args, max.as_mut_ptr().into(), &[1, heads, 1]);
        view(&mut args, sum.as_mut_ptr().into(), &[1, heads, 1]);
        view(&mut args, acc.as_mut_ptr().into(), &[1, heads, 1, D]);
        view(&mut args, asked.as_ptr().into(), &[1, heads, D]);
        view(&mut args, asked_lse.as_ptr().into(), &[1, heads]);
        let newest = [tokens as i32 - 1; HEADS];
        view(&mut args, newest.as_ptr().into(), &[1, HEADS, 1]);
        let prompts = [tokens as i32 / 2];
        let (mut sig, mut at, mut state) = ([0f32; HEADS * 3], [0i32; HEADS * 6], [0i32; HEADS * 5]);
        view(&mut args, prompts.as_ptr().into(), &[1]);
        view(&mut args, sig.as_mut_ptr().into(), &[1, HEADS, 3]);
        view(&mut args, at.as_mut_ptr().into(), &[1, HEADS, 6]);
        view(&mut args, state.as_mut_ptr().into(), &[1, HEADS, 5]);
        let mut best = [f64::MAX; 3];
        // In turn, so that all see the same machine.
        for _ in 0..100 {
            for (kernel, best) in [&loaded, &adding, &looking].into_iter().zip(&mut best) {
                let start = Instant::now();
                // SAFETY: the arguments are the kernel's parameters in order, the views describe the buffers.
                unsafe { kernel.launch([HEADS as u32, 1, 1], &args, 1) }.unwrap_or_else(|e| panic!("{e}"));
                *best = best.min(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        let mut worst = 0f32;
        for head in 0..HEADS {
            let token = |t: usize| head * TOKENS + t;
            for g in 0..GROUP {
                let row = head * GROUP + g;
                let q: Vec<f32> = q[row * D..][..D].iter().map(|x| x.to_f32()).collect();
                let logits: Vec<f32> = (0..tokens)
                    .map(|t| keys[token(t)].iter().zip(&q).map(|(a, b)| a * b).sum::<f32>() * scale)
                    .collect();
                let top = logits.iter().copied().fold(f32::MIN, f32::max);
                let p: Vec<f32> = logits.iter().map(|x| (x - top).exp()).collect();
                let total: f32 = p.iter().sum();
                for d in 0..D {
                    let want = (0..tokens).map(|t| p[t] * values[token(t)][d]).sum::<f32>() / total;
                    worst = worst.max((want - acc[row * D + d] / sum[row]).abs());
                }
            }
        }
        let [plain, adding, looking] = best;
        println!("{tokens} tokens: {plain:.3} ms, largest error {worst:.2e}");
        println!("    with significance {adding:.3} ms, {:.2} of that", adding / plain);
        println!("    with the next step's candidates too {looking:.3} ms, {:.2} of that", looking / plain);
        assert!(worst < 2e-3, "the output is wrong");
    }
}
