//! Page writers: every byte of the arena.

use half::{bf16, f16};
use leankv_dsl::workload::{Check, Generator, Item, Workload};

use super::{RecipeError, Shapes};
use crate::page_writer::WriterSpec;
use crate::reference::{self, PagedFormat};

/// What the writers take besides the arena.
struct Prompt {
    paged: PagedFormat,
    kv_heads: usize,
    tokens: usize,
    per_head: usize,
    /// `[lists, per_head]` page numbers, in random order.
    ids: Vec<i32>,
    arena: Vec<u8>,
}

impl Prompt {
    /// Lists of pages with room for `tokens` and one more.
    fn new(
        spec: &WriterSpec,
        lists: usize,
        kv_heads: usize,
        tokens: usize,
        random: &mut Generator,
    ) -> Result<Prompt, RecipeError> {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let paged = PagedFormat::new(spec.format, narrow(spec.head_dim), narrow(spec.page_bytes))?;
        let per_head = (tokens + 1).div_ceil(paged.tokens_per_page());
        let ids = random.permutation(lists * per_head).into_iter().map(|id| id as i32).collect();
        let arena = vec![0x5A; lists * per_head * spec.page_bytes];
        Ok(Prompt { paged, kv_heads, tokens, per_head, ids, arena })
    }
}

/// Vectors in the kernel's type, and their exact values.
pub(super) trait Vectors: Item {
    fn random(random: &mut Generator, len: usize) -> (Vec<Self>, Vec<f32>);
}

impl Vectors for f16 {
    fn random(random: &mut Generator, len: usize) -> (Vec<f16>, Vec<f32>) {
        random.f16s(len, -1.0, 1.0)
    }
}

impl Vectors for bf16 {
    fn random(random: &mut Generator, len: usize) -> (Vec<bf16>, Vec<f32>) {
        let x: Vec<bf16> = random.f32s(len, -1.0, 1.0).into_iter().map(bf16::from_f32).collect();
        let exact = x.iter().map(|x| x.to_f32()).collect();
        (x, exact)
    }
}

impl Vectors for f32 {
    fn random(random: &mut Generator, len: usize) -> (Vec<f32>, Vec<f32>) {
        let x = random.f32s(len, -1.0, 1.0);
        (x.clone(), x)
    }
}

fn write_prompt<E: Vectors>(spec: &WriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (tokens, kv_heads) = (shapes.get("tokens"), shapes.get("kv_heads"));
    let mut random = Generator::new(seed);
    let prompt = Prompt::new(spec, kv_heads, kv_heads, tokens, &mut random)?;
    let len = tokens * kv_heads * spec.head_dim;
    let ((keys, keys32), (values, values32)) = (E::random(&mut random, len), E::random(&mut random, len));
    let significance = random.f32s(kv_heads * tokens, 0.0, 1.0);
    let positions: Vec<i32> = (0..tokens as i32).map(|p| 2 * p + 1).collect();
    let mut expected = prompt.arena.clone();
    reference::write_prompt(
        &prompt.paged,
        &mut expected,
        &prompt.ids,
        &keys32,
        &values32,
        &positions,
        Some(&significance),
        prompt.kv_heads,
    )?;
    let per_page = prompt.paged.tokens_per_page();
    let blocks = prompt.tokens.div_ceil(per_page) * per_page.div_ceil(spec.block.max(1));
    let extents = [tokens, kv_heads, spec.head_dim];
    Ok(Workload::new([blocks.max(1), kv_heads, 1])
        .view("keys", &keys, &extents)
        .view("values", &values, &extents)
        .view("significance", &significance, &[kv_heads, tokens])
        .view("positions", &positions, &[tokens])
        .view("pages", &prompt.ids, &[kv_heads, prompt.per_head])
        .buffer("arena", &prompt.arena)
        .output("arena", Check::Bits)
        .expect("arena", &expected, Check::Bits))
}

fn append_token<E: Vectors>(spec: &WriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (requests, kv_heads) = (shapes.get("requests"), shapes.get("kv_heads"));
    let mut random = Generator::new(seed);
    let lists = requests * kv_heads;
    let prompt = Prompt::new(spec, lists, kv_heads, shapes.get("tokens"), &mut random)?;
    let lengths: Vec<i32> = (0..lists).map(|_| random.below(prompt.tokens + 1) as i32).collect();
    let len = lists * spec.head_dim;
    let ((keys, keys32), (values, values32)) = (E::random(&mut random, len), E::random(&mut random, len));
    let positions: Vec<i32> = (0..requests as i32).map(|r| 77 + r).collect();
    let mut expected = prompt.arena.clone();
    for (r, &position) in positions.iter().enumerate() {
        let (row, lists) = (r * kv_heads * spec.head_dim, r * kv_heads);
        reference::append_token(
            &prompt.paged,
            &mut expected,
            &prompt.ids[lists * prompt.per_head..][..kv_heads * prompt.per_head],
            &lengths[lists..][..kv_heads],
            &keys32[row..][..kv_heads * spec.head_dim],
            &values32[row..][..kv_heads * spec.head_dim],
            position,
        )?;
    }
    let extents = [requests, kv_heads, spec.head_dim];
    Ok(Workload::new([kv_heads, requests, 1])
        .view("keys", &keys, &extents)
        .view("values", &values, &extents)
        .view("positions", &positions, &[requests])
        .view("lengths", &lengths, &[requests, kv_heads])
        .view("pages", &prompt.ids, &[requests, kv_heads, prompt.per_head])
        .buffer("arena", &prompt.arena)
        .output("arena", Check::Bits)
        .expect("arena", &expected, Check::Bits))
}

pub(super) fn write_prompt_f16(s: &WriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    write_prompt::<f16>(s, shapes, seed)
}

pub(super) fn write_prompt_f32(s: &WriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    write_prompt::<f32>(s, shapes, seed)
}

pub(super) fn append_token_f16(s: &WriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    append_token::<f16>(s, shapes, seed)
}

pub(super) fn append_token_f32(s: &WriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    append_token::<f32>(s, shapes, seed)
}
