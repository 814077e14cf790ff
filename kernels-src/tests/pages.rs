//! Page writers against their references, on the interpreter: every byte of the arena.

mod common;

use common::{Item, Run, halves, random};
use leankv_dsl::lang::KernelDef;
use leankv_kernels::find;
use leankv_kernels::reference::{PagedFormat, append_token, write_prompt};

const PAGE: usize = 2048;

/// The kernels for one type of input: their names' ending, and what becomes of numbers.
struct Input<E> {
    ending: &'static str,
    of: fn(&[f32]) -> (Vec<E>, Vec<f32>),
}

const HALVES: Input<half::f16> = Input { ending: "", of: halves };
const SINGLES: Input<f32> = Input { ending: "_f32", of: |x| (x.to_vec(), x.to_vec()) };

/// Halves among which stand NaNs and infinities of both signs, one vector of nothing but NaN included.
const SPECIALS: Input<half::f16> = Input { ending: "", of: |x| halves(&spoiled(x)) };

fn spoiled(x: &[f32]) -> Vec<f32> {
    let special = |i: usize, x: f32| match i {
        _ if i < 128 || i % 17 == 3 => f32::NAN,
        _ if i % 23 == 5 => f32::INFINITY,
        _ if i % 29 == 7 => f32::NEG_INFINITY,
        _ => x,
    };
    x.iter().enumerate().map(|(i, &x)| special(i, x)).collect()
}

impl<E> Input<E> {
    fn kernel(&self, name: &str) -> &'static dyn KernelDef {
        find(&format!("{name}{}", self.ending)).expect("the kernel is shipped")
    }
}

fn check<E: Item>(input: &Input<E>, format: &str, head_dim: usize, tokens: usize) {
    let paged = PagedFormat::new(format.parse().unwrap(), head_dim as u32, PAGE as u32).unwrap();
    let (heads, n) = (2, paged.tokens_per_page());
    let per_head = (tokens + 1).div_ceil(n);
    let len = tokens * heads * head_dim;
    let ((keys, keys32), (values, values32)) = ((input.of)(&random(1, len)), (input.of)(&random(2, len)));
    let significance = random(3, heads * tokens);
    let positions: Vec<i32> = (0..tokens as i32).map(|p| 2 * p + 1).collect();
    // Pages out of order, so that no two neighbours are adjacent.
    let pages = heads * per_head;
    let ids: Vec<i32> = (0..pages).map(|i| (pages - 1 - i) as i32 ^ 1).collect();
    let arena = vec![0x5Au8; (pages + 1) * PAGE];
    let mut expected = arena.clone();
    write_prompt(&paged, &mut expected, &ids, &keys32, &values32, &positions, Some(&significance), heads)
        .unwrap();

    let (dim, page) = (head_dim.to_string(), PAGE.to_string());
    let settings = [("format", format), ("head_dim", &*dim), ("page_bytes", &*page), ("block", "16")];
    let mut run = Run::new(input.kernel("write_prompt"), &settings);
    let extents = [tokens, heads, head_dim];
    run.view("keys", &keys, &extents).view("values", &values, &extents);
    run.view("significance", &significance, &[heads, tokens]).view("positions", &positions, &[tokens]);
    run.view("pages", &ids, &[heads, per_head]).buffer("arena", &arena);
    run.launch([tokens.div_ceil(n) * n.div_ceil(16), heads, 1]);
    assert!(run.read::<u8>("arena") == expected, "pages of {format} at head dim {head_dim}, {tokens} tokens");

    let arena = expected.clone();
    let ((key, key32), (value, value32)) =
        ((input.of)(&random(4, heads * head_dim)), (input.of)(&random(5, heads * head_dim)));
    let lengths = vec![tokens as i32; heads];
    append_token(&paged, &mut expected, &ids, &lengths, &key32, &value32, 77).unwrap();
    let mut run = Run::new(input.kernel("append_token"), &settings);
    run.view("keys", &key, &[1, heads, head_dim]).view("values", &value, &[1, heads, head_dim]);
    run.view("positions", &[77i32], &[1]).view("lengths", &lengths, &[1, heads]);
    run.view("pages", &ids, &[1, heads, per_head]).buffer("arena", &arena);
    run.launch([heads, 1, 1]);
    assert!(
        run.read::<u8>("arena") == expected,
        "appending to {format} at head dim {head_dim}, {tokens} tokens"
    );
}

#[test]
fn prompts_and_appended_tokens_in_every_kind_of_format() {
    for (format, head_dim) in
        [("fp16", 64), ("K8V4", 64), ("K4V2g2.4", 64), ("K3V5", 80), ("K8sV2", 96), ("K8V4-bf16", 128)]
    {
        for tokens in [1, 5, 40] {
            check(&HALVES, format, head_dim, tokens);
        }
    }
}

#[test]
fn prompts_and_appended_tokens_of_single_precision() {
    for (format, head_dim) in [("fp16", 64), ("K8V4", 128), ("K4V2g2.4", 64), ("K3V5", 80)] {
        check(&SINGLES, format, head_dim, 40);
    }
}

#[test]
fn not_numbers_and_infinities_are_stored_as_the_formats_say() {
    for (format, head_dim) in [("fp16", 64), ("K8V4", 64), ("K4V2g2.4", 64), ("K3V5", 80), ("K8sV2", 96)] {
        check(&SPECIALS, format, head_dim, 7);
    }
}
