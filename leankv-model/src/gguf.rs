//! The header of a GGUF file: metadata and where the tensors lie.
//!
//! Counts, lengths and products are checked against the length of the file before anything is allocated for them, so a damaged or crafted file is an error
//! and takes no more memory than a few times its own size. What is read is candle's [`Content`], which the model and the tokenizer take.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Read, Seek, SeekFrom};

use candle_core::Shape;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, DEFAULT_ALIGNMENT, TensorInfo, Value, VersionedMagic};

use crate::error::ModelError;

/// Formats of tensors that are read.
pub const TENSOR_FORMATS: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K and Q6_K";

/// Items of all arrays together: far above the million or so of the largest vocabularies.
const MOST_ITEMS: u64 = 1 << 23;

/// Reads the header of a GGUF file of version 1 to 3, from where `reader` stands.
///
/// # Errors
/// [`ModelError::Gguf`] for what is no GGUF file or only a part of one, and for counts, offsets and extents that cannot be; [`ModelError::TensorFormat`]
/// for a tensor in a format that is not read; [`ModelError::Twice`] for a key or a tensor that is there twice.
pub fn read_header<R: Read + Seek>(reader: &mut R) -> Result<Content, ModelError> {
    let start = reader.stream_position().map_err(io)?;
    let end = reader.seek(SeekFrom::End(0)).map_err(io)?;
    reader.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut header = Header { reader, at: start, end, wide: true, items: 0 };

    let (mark, version) = (header.bytes::<4>("the first bytes")?, header.u32("the version")?);
    let magic = match version {
        _ if &mark != b"GGUF" => return Err(gguf("it does not begin with `GGUF`")),
        1 => VersionedMagic::GgufV1,
        2 => VersionedMagic::GgufV2,
        3 => VersionedMagic::GgufV3,
        version if (1..=3).contains(&version.swap_bytes()) => {
            return Err(gguf("it is big-endian; convert the model on a little-endian machine"));
        }
        version => return Err(gguf(format!("it is GGUF of version {version}; versions 1 to 3 are read"))),
    };
    header.wide = magic != VersionedMagic::GgufV1;
    let (tensors, keys) = (header.length("the number of tensors")?, header.length("the number of keys")?);
    // A key is at least its length, a type and one byte; a tensor its name's length, the number of extents, a format and an offset.
    let length = if header.wide { 8 } else { 4 };
    let least = keys.saturating_mul(length + 5).saturating_add(tensors.saturating_mul(length + 16));
    header.has(least, &format!("{tensors} tensors and {keys} keys"))?;

    let mut metadata = HashMap::new();
    for _ in 0..keys {
        let key = header.name("a key")?;
        let kind = header.u32(&key)?;
        let value = header.value(&key, kind, true)?;
        match metadata.entry(key) {
            Entry::Vacant(place) => place.insert(value),
            Entry::Occupied(place) => {
                return Err(ModelError::Twice { what: "key", name: place.key().clone() });
            }
        };
    }
    let alignment = alignment(&metadata)?;
    let mut tensor_infos = HashMap::new();
    for _ in 0..tensors {
        let name = header.name("the name of a tensor")?;
        let info = header.tensor(&name)?;
        if !info.offset.is_multiple_of(alignment) {
            let (offset, why) = (info.offset, "which is no multiple of the alignment");
            return Err(gguf(format!("tensor `{name}` lies at {offset}, {why} of {alignment} bytes")));
        }
        match tensor_infos.entry(name) {
            Entry::Vacant(place) => place.insert(info),
            Entry::Occupied(place) => {
                return Err(ModelError::Twice { what: "tensor", name: place.key().clone() });
            }
        };
    }
    let tensor_data_offset = header.at.next_multiple_of(alignment);
    let content = Content { magic, metadata, tensor_infos, tensor_data_offset };
    check_places(&content, end)?;
    Ok(content)
}

/// Bytes of a tensor; none where they are more than a number holds, or rows are no whole blocks.
pub(crate) fn bytes_of(info: &TensorInfo) -> Option<u64> {
    let extents = info.shape.dims();
    let block = info.ggml_dtype.block_size();
    if !extents.last()?.is_multiple_of(block) {
        return None;
    }
    let elements = extents.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))?;
    (elements / block).checked_mul(info.ggml_dtype.type_size())?.try_into().ok()
}

/// Tensors lie within the file and apart from each other.
fn check_places(content: &Content, end: u64) -> Result<(), ModelError> {
    let room = end.saturating_sub(content.tensor_data_offset);
    let mut places = Vec::with_capacity(content.tensor_infos.len());
    for (name, info) in &content.tensor_infos {
        let (extents, format) = (info.shape.dims(), info.ggml_dtype);
        let Some(bytes) = bytes_of(info) else {
            let why = format!(
                "has extents {extents:?} in {format:?}, blocks of {}: no such tensor can be",
                format.block_size()
            );
            return Err(gguf(format!("tensor `{name}` {why}")));
        };
        let past = info.offset.checked_add(bytes).filter(|&past| past <= room).ok_or_else(|| {
            gguf(format!(
                "tensor `{name}` takes {bytes} bytes from {} on, and the file has {room} for all tensors: it is cut short",
                info.offset
            ))
        })?;
        places.push((info.offset, past, name));
    }
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(gguf(format!("tensors `{}` and `{}` lie over each other", pair[0].2, pair[1].2))),
        None => Ok(()),
    }
}

/// What tensors' offsets are multiples of.
fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, ModelError> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(n)) if n.is_power_of_two() && (8..=1 << 20).contains(&n) => Ok(n.into()),
        Some(value) => Err(ModelError::Metadata {
            key: key.to_owned(),
            why: format!("is {value:?} instead of a power of two from 8 on, as a u32; the file is damaged"),
        }),
    }
}

/// A file that is damaged, or none of this kind.
fn gguf(why: impl Into<String>) -> ModelError {
    ModelError::Gguf(why.into())
}

fn io(error: std::io::Error) -> ModelError {
    gguf(error.to_string())
}

/// A header as it is read.
struct Header<'a, R> {
    reader: &'a mut R,
    at: u64,
    end: u64,
    /// Lengths have 64 bits, or 32 in version 1.
    wide: bool,
    /// Items of arrays so far.
    items: u64,
}

impl<R: Read> Header<'_, R> {
    /// Fails where the file has fewer bytes left.
    fn has(&self, bytes: u64, what: &str) -> Result<(), ModelError> {
        let left = self.end.saturating_sub(self.at);
        match bytes <= left {
            true => Ok(()),
            false => Err(gguf(format!(
                "{what} would take at least {bytes} bytes, and the file has {left} more: it is cut short or damaged"
            ))),
        }
    }

    fn fill(&mut self, out: &mut [u8], what: &str) -> Result<(), ModelError> {
        self.has(out.len() as u64, what)?;
        self.reader.read_exact(out).map_err(io)?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let mut out = [0; N];
        self.fill(&mut out, what)?;
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    fn length(&mut self, what: &str) -> Result<u64, ModelError> {
        if self.wide { self.u64(what) } else { self.u32(what).map(u64::from) }
    }

    fn text(&mut self, what: &str) -> Result<Vec<u8>, ModelError> {
        let length = self.length(what)?;
        self.has(length, what)?;
        // No more than the file has, so it fits in memory as the file's size does.
        let mut text = vec![0; length as usize];
        self.fill(&mut text, what)?;
        // Some exporters write C's end of a text too.
        while text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }

    fn name(&mut self, what: &str) -> Result<String, ModelError> {
        String::from_utf8(self.text(what)?).map_err(|_| gguf(format!("{what} is no UTF-8")))
    }

    /// A value of a type; arrays only outside of arrays, as llama.cpp takes them.
    fn value(&mut self, key: &str, kind: u32, arrays: bool) -> Result<Value, ModelError> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.bytes(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes(key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(i32::from_le_bytes(self.bytes(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes(key)?)),
            7 => match self.bytes(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(gguf(format!("`{key}` is a boolean of value {other}"))),
            },
            8 => Value::String(String::from_utf8_lossy(&self.text(key)?).into_owned()),
            9 if arrays => {
                let kind = self.u32(key)?;
                let items = self.length(key)?;
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 if !self.wide => 4,
                    _ => 8,
                };
                self.has(items.saturating_mul(least), key)?;
                self.items = self.items.saturating_add(items);
                if self.items > MOST_ITEMS {
                    return Err(gguf(format!(
                        "`{key}` makes {} items of arrays, more than {MOST_ITEMS}",
                        self.items
                    )));
                }
                Value::Array((0..items).map(|_| self.value(key, kind, false)).collect::<Result<_, _>>()?)
            }
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(key)?)),
            _ => return Err(gguf(format!("`{key}` has a type of number {kind}, which is none here"))),
        })
    }

    fn tensor(&mut self, name: &str) -> Result<TensorInfo, ModelError> {
        let dims = self.u32(name)?;
        if !(1..=4).contains(&dims) {
            return Err(gguf(format!("tensor `{name}` has {dims} extents; 1 to 4 are possible")));
        }
        let mut extents = Vec::with_capacity(4);
        for _ in 0..dims {
            let extent = self.length(name)?;
            let extent = usize::try_from(extent).ok().filter(|&n| n > 0);
            extents
                .push(extent.ok_or_else(|| gguf(format!("tensor `{name}` has an extent that cannot be")))?);
        }
        // The file has the innermost first.
        extents.reverse();
        let format = format(name, self.u32(name)?)?;
        Ok(TensorInfo { ggml_dtype: format, shape: Shape::from(extents), offset: self.u64(name)? })
    }
}

/// The format of a number, as ggml counts them.
fn format(tensor: &str, number: u32) -> Result<GgmlDType, ModelError> {
    use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let name = match number {
        0 => return Ok(F32),
        1 => return Ok(F16),
        2 => return Ok(Q4_0),
        3 => return Ok(Q4_1),
        6 => return Ok(Q5_0),
        7 => return Ok(Q5_1),
        8 => return Ok(Q8_0),
        10 => return Ok(Q2K),
        11 => return Ok(Q3K),
        12 => return Ok(Q4K),
        13 => return Ok(Q5K),
        14 => return Ok(Q6K),
        30 => return Ok(BF16),
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36..=38 => "IQ4_NL, repacked",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => {
            return Err(gguf(format!(
                "tensor `{tensor}` has a format of number {number}, which is none known"
            )));
        }
    };
    Err(ModelError::TensorFormat { tensor: tensor.to_owned(), format: name })
}

#[cfg(test)]
mod tests;
