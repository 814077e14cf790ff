//! Damaged and crafted files: each is an error or a model, and none takes more memory than a few times its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Cursor;

use candle_core::quantized::gguf_file::Value;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::read_header;
use crate::testing::TinyFile;
use crate::tokenizer::Tokenizer;
use crate::{Model, WeightForm};

/// The system's allocator, which remembers the largest request of each thread.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn see(bytes: usize) {
    LARGEST.with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: every method hands its arguments to `System`, whose contract is the same, and gives back what it gives; `see` neither allocates nor panics, since
// its thread-local number has a constant beginning and needs no drop.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        see(layout.size());
        // SAFETY: the caller keeps this method's contract, which is that one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        see(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        see(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// How much larger than the file one piece of memory may be: one byte of an array is a [`Value`] of 24 in a vector that doubles.
const FACTOR: usize = 48;

/// Reads a file as `leankv run` does; gives what is said of one that is refused.
fn read(bytes: &[u8]) -> Option<String> {
    LARGEST.with(|largest| largest.set(0));
    let said = model(bytes).err();
    let (largest, most) = (LARGEST.with(Cell::get), FACTOR * bytes.len() + (64 << 10));
    assert!(largest <= most, "{largest} bytes at once for a file of {}: {said:?}", bytes.len());
    if let Some(said) = &said {
        assert!(!said.contains("internal"), "{said}");
    }
    said
}

fn model(bytes: &[u8]) -> Result<Model, String> {
    let mut file = Cursor::new(bytes);
    let content = read_header(&mut file).map_err(|e| e.to_string())?;
    let tokenizer = Tokenizer::from_gguf(&content).map_err(|e| e.to_string())?;
    tokenizer.encode("a text, 123 <|endoftext|>", true).map_err(|e| e.to_string())?;
    Model::read(&content, &mut file, WeightForm::Quantised).map_err(|e| e.to_string())
}

/// Where `what` stands in a file.
fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|part| part == what).expect("it is there")
}

/// Numbers that counts, lengths and offsets are not.
const EXTREMES: [u64; 12] =
    [0, 1, 31, 0xff, 1 << 16, 1 << 30, 0xffff_ffff, 1 << 32, 1 << 40, 1 << 61, i64::MAX as u64, u64::MAX];

#[test]
fn numbers_of_the_metadata_that_cannot_be_are_errors() {
    let mut file = TinyFile::new("gemma3", 1);
    let metadata = file.metadata.clone();
    assert_eq!(read(&file.bytes()), None);
    let numbers = metadata.iter().filter(|(_, value)| crate::metadata::number(value).is_some());
    let keys: Vec<&str> = numbers.map(|(key, _)| key.as_str()).collect();
    assert!(keys.len() > 8);
    let mut refused = 0;
    let more = [
        "general.alignment",
        "gemma3.attention.key_length",
        "gemma3.rope.freq_base",
        "gemma3.rope.scaling.factor",
    ];
    for key in keys.into_iter().chain(more) {
        for number in EXTREMES {
            let float = f64::from_bits(number);
            for value in
                [Value::U64(number), Value::U32(number as u32), Value::F64(float), Value::F32(float as f32)]
            {
                file.metadata.clone_from(&metadata);
                file.set(key, value);
                refused += usize::from(read(&file.bytes()).is_some());
            }
        }
    }
    assert!(refused > 400, "{refused}");
}

#[test]
fn heads_that_are_damaged_anywhere_are_errors_or_models() {
    let whole = TinyFile::new("llama", 1).bytes();
    let head = find(&whole, b"blk.1.ffn_down.weight") + 64;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut refused, mut taken) = (0, 0);
    for round in 0..600 {
        let mut bytes = whole.clone();
        match round % 4 {
            0 => bytes.truncate(rng.random_range(0..whole.len())),
            1 => {
                for _ in 0..rng.random_range(1..4) {
                    bytes[rng.random_range(0..head)] = rng.random();
                }
            }
            _ => {
                // Not within the vocabulary, which is most of the head.
                let tensors = find(&whole, b"token_embd.weight");
                let at =
                    if round % 4 == 2 { rng.random_range(0..700) } else { rng.random_range(tensors..head) };
                let number = EXTREMES[rng.random_range(0..EXTREMES.len())].to_le_bytes();
                let width = if rng.random() { 4 } else { 8 };
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
        }
        match read(&bytes) {
            Some(_) => refused += 1,
            None => taken += 1,
        }
    }
    assert!(refused > 300 && taken > 5, "{refused} and {taken}");
}

#[test]
fn what_is_there_twice_is_refused() {
    let bytes = TinyFile::new("llama", 1).bytes();
    let mut tensor = bytes.clone();
    let at = find(&bytes, b"blk.1.ffn_up.weight");
    tensor[at + 4] = b'0';
    assert_eq!(
        read(&tensor).unwrap(),
        "the file has the tensor `blk.0.ffn_up.weight` twice: it is damaged or wrongly converted; convert the model again"
    );
    let mut file = TinyFile::new("llama", 1);
    file.set("llama.feed_forward_lengtX", Value::U32(1));
    let mut key = file.bytes();
    let at = find(&key, b"llama.feed_forward_lengtX");
    key[at..][..25].copy_from_slice(b"llama.feed_forward_length");
    assert!(read(&key).unwrap().contains("the key `llama.feed_forward_length` twice"));
    // Two tensors in one place.
    let mut over = bytes.clone();
    let at = find(&bytes, b"blk.0.ffn_up.weight") + b"blk.0.ffn_up.weight".len() + 4 + 16 + 4;
    over[at..at + 8].copy_from_slice(&0u64.to_le_bytes());
    assert!(read(&over).unwrap().contains("lie over each other"));
}

#[test]
fn formats_that_are_not_read_are_named() {
    let bytes = TinyFile::new("llama", 1).bytes();
    let name = b"blk.1.ffn_up.weight";
    let at = find(&bytes, name) + name.len() + 4 + 16;
    for (number, format) in
        [(16u32, "IQ2_XXS"), (20, "IQ4_NL"), (23, "IQ4_XS"), (39, "MXFP4"), (35, "TQ2_0"), (9, "Q8_1")]
    {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        let said = read(&bytes).unwrap();
        let expected = format!(
            "tensor `blk.1.ffn_up.weight` is in {format}, which is not supported; supported are F32, F16, BF16, Q4_0"
        );
        assert!(said.starts_with(&expected) && said.contains("Q6_K"), "{said}");
    }
}

#[test]
fn what_is_no_gguf_file_of_these_machines_is_said() {
    let bytes = TinyFile::new("llama", 1).bytes();
    let said = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        read(&bytes).unwrap()
    };
    assert!(said(&|bytes| bytes[..4].copy_from_slice(b"GGML")).contains("does not begin with `GGUF`"));
    assert!(said(&|bytes| bytes[4..8].copy_from_slice(&3u32.to_be_bytes())).contains("big-endian"));
    assert!(said(&|bytes| bytes[4..8].copy_from_slice(&4u32.to_le_bytes())).contains("version 4"));
    assert!(said(&|bytes| bytes[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes())).contains("tensors"));
    assert!(said(&|bytes| bytes.truncate(bytes.len() - 5000)).contains("cut short"));
    assert!(said(&Vec::clear).contains("cut short"));
}
