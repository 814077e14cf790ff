//! The shipped decode attention kernel on one host thread: K8V4, 32 query heads, 8 KV heads, head dim 128, 4096 tokens.
//! Prints compile, load and run time and the largest error against plain Rust, then the time with the significance of the last step's
//! queries added, then with the next step's candidates looked for too, and what each is of the time without.
//!
//! `cargo bench -p leankv-kernels --bench host_decode [-- v3 object]` (`v3` compiles for AVX2 alone, `object` writes
//! the code of both for a disassembler).

mod host;

use std::time::Instant;

use host::{Launch, compiled};
use leankv_dsl::codegen::host::{HostKernel, HostOptions};
use leankv_dsl::format::KvFormat;
use leankv_dsl::lang::attention::{Lengths, PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::workload::{Generator, given};
use leankv_kernels::candidates::{FindsArgs, LookingArgs, ShortlistState};
use leankv_kernels::decode::{DecodeAttentionArgs, PartialsArgs, decode_attention};
use leankv_kernels::pending::PendingArgs;
use leankv_kernels::reference::{PagedFormat, read_tokens, write_token};

const HEADS: usize = 8;
const GROUP: usize = 4;
const D: usize = 128;
const TOKENS: usize = 4096;
/// The published page at head dim 128.
const PAGE_BYTES: usize = 6784;

fn main() {
    let kernel = decode_attention::<Stock, Plain, PagedKv>::KERNEL;
    let class = std::env::args().any(|arg| arg == "v3").then(|| "x86-64-v3".to_owned());
    let options = HostOptions { class, ..HostOptions::default() };
    let mut artifact = None;
    let build = |more: &str| {
        compiled(&kernel, &format!("tiering=K8V4,head_dim=128,group=4,split_pages=0{more}"), &options)
    };
    for _ in 0..3 {
        let start = Instant::now();
        artifact = Some(build(""));
        println!("spec to object {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    let plain = artifact.expect("compiled");
    let with_significance = build(",significance=true");
    let with_candidates = build(",significance=true,candidates=true");
    if std::env::args().any(|arg| arg == "object") {
        for (file, of) in [("decode.o", &plain), ("decode_significance.o", &with_significance)] {
            std::fs::write(file, &of.1.object).unwrap_or_else(|e| panic!("writing {file}: {e}"));
        }
    }
    let artifact = &plain.1;
    println!(
        "object {} bytes, scratch {} bytes, {:?}",
        artifact.object.len(),
        artifact.scratch_bytes,
        artifact.notes
    );
    let start = Instant::now();
    HostKernel::load(artifact).unwrap_or_else(|e| panic!("{e}"));
    println!("load {:.2} ms", start.elapsed().as_secs_f64() * 1e3);

    let format = KvFormat::affine(8, 4).expect("8 and 4 bits exist");
    let paged =
        PagedFormat::new(format, D as u32, PAGE_BYTES as u32).expect("a page of this size holds tokens");
    let pages_per_head = TOKENS.div_ceil(paged.tokens_per_page());
    let mut random = Generator::new(1);
    let (q, q32) = random.f16s(HEADS * GROUP * D, -1.0, 1.0);
    let mut bytes = vec![0u8; HEADS * pages_per_head * PAGE_BYTES];
    // Pages of different heads interleave.
    let ids = |head: usize| (0..pages_per_head).map(move |page| (page * HEADS + head) as i32);
    let table: Vec<i32> = (0..HEADS).flat_map(ids).collect();
    let mut cached = Vec::new();
    for head in 0..HEADS {
        let ids: Vec<i32> = ids(head).collect();
        for t in 0..TOKENS {
            let (key, value) = (random.f32s(D, -1.0, 1.0), random.f32s(D, -1.0, 1.0));
            let page = &mut bytes[ids[t / paged.tokens_per_page()] as usize * PAGE_BYTES..][..PAGE_BYTES];
            write_token(&paged, page, (t % paged.tokens_per_page()) as u32, &key, &value, 0.0, t as i32)
                .expect("the slot is in the page");
        }
        cached.push(read_tokens(&paged, &bytes, &ids, TOKENS).expect("the pages are there"));
    }
    let scale = 1.0 / (D as f32).sqrt();
    let heads = HEADS * GROUP;
    // Queries of the step before, whose significance is added.
    let (asked, _) = random.f16s(HEADS * GROUP * D, -1.0, 1.0);
    for tokens in [TOKENS, TOKENS - 37, 1] {
        let length = tokens as i32;
        let lengths = Lengths { high: length, low: 0, frozen_high: 0, frozen_low: 0 };
        let state = ShortlistState::new(0, lengths).to_row();
        let launches = [&plain, &with_significance, &with_candidates].map(|code| {
            let args = DecodeAttentionArgs {
                q: given(&q).tensor([1, heads, D]).into(),
                query_positions: given(&[length - 1]).tensor([1]),
                scale,
                kv: PagedKvArgs {
                    arena: given(&bytes).slice_mut(),
                    slots: given(&[0]).tensor([1]),
                    table: given(&table).tensor([1, HEADS, pages_per_head]),
                    lengths: given(&lengths.to_row().repeat(HEADS)).tensor([1, HEADS, Lengths::COLUMNS]),
                },
                out: PartialsArgs {
                    splits: given(&[0; HEADS]).tensor_mut([1, HEADS]),
                    lse: given(&vec![0.0; heads]).tensor_mut([1, heads, 1]),
                    out: given(&vec![0.0; heads * D]).tensor_mut([1, heads, 1, D]),
                },
                pending: PendingArgs {
                    q: given(&asked).tensor([1, heads, D]),
                    lse: given(&vec![8.0; heads]).tensor([1, heads]),
                    newest: given(&[length - 1; HEADS]).tensor([1, HEADS, 1]),
                },
                shortlist: LookingArgs {
                    prompts: given(&[length / 2]).tensor([1]),
                    finds: FindsArgs {
                        sig: given(&[0.0; HEADS * 3]).tensor_mut([1, HEADS, 3, 1]),
                        at: given(&[0; HEADS * 6]).tensor_mut([1, HEADS, 6, 1]),
                    },
                    state: given(&state.repeat(HEADS)).tensor_mut([1, HEADS, state.len()]),
                },
                codecs: (),
                hooks: (),
            };
            Launch::new(code, &kernel, [HEADS, 1, 1], args)
        });
        let mut best = [f64::MAX; 3];
        // In turn, so that all see the same machine.
        for _ in 0..100 {
            for (launch, best) in launches.iter().zip(&mut best) {
                *best = best.min(launch.time());
            }
        }
        let out: Vec<f32> = launches[0].read("out.out");
        let mut worst = 0f32;
        for head in 0..HEADS {
            let cached = &cached[head];
            for g in 0..GROUP {
                let row = head * GROUP + g;
                let q = &q32[row * D..][..D];
                let logits: Vec<f32> = (0..tokens)
                    .map(|t| cached[t].key.iter().zip(q).map(|(a, b)| a * b).sum::<f32>() * scale)
                    .collect();
                let top = logits.iter().copied().fold(f32::MIN, f32::max);
                let p: Vec<f32> = logits.iter().map(|x| (x - top).exp()).collect();
                let total: f32 = p.iter().sum();
                for d in 0..D {
                    let want = (0..tokens).map(|t| p[t] * cached[t].value[d]).sum::<f32>() / total;
                    worst = worst.max((want - out[row * D + d]).abs());
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
