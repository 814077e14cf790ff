//! Rows of codes and metadata: consecutive tokens of one side (keys or values), wherever they lie.

use crate::diag::Diagnostic;
use crate::format::{CodecShape, HalfType, Plane, planes};
use crate::ir::Loc;
use crate::lang::element::{Code, Plain};
use crate::lang::ops::{Ptr, PtrMut, Word};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::tile::{Scalar, Tile, iota};

use super::codec::{Codec, Encoded, EncodedCodes, Tokens};
use super::half16::decode16;

/// What rows look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Bits, groups, metadata words.
    pub(crate) shape: CodecShape,
    /// Elements of a row.
    pub(crate) head_dim: usize,
    /// Rows of the tile.
    pub(crate) count: usize,
    /// What divides the address of every row of codes.
    pub(crate) align: usize,
    /// Which rows exist; the others read as zeros and are not written.
    pub(crate) valid: Tile<bool, 1>,
}

/// Rows to decode.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    pub(crate) codes: Ptr<u8>,
    pub(crate) meta: Ptr<u8>,
    pub(crate) form: Form,
    pub(crate) tokens: Tokens,
}

/// Rows to encode into.
#[derive(Clone, Copy, Debug)]
pub struct RowsMut {
    pub(crate) codes: PtrMut<u8>,
    pub(crate) meta: PtrMut<u8>,
    pub(crate) form: Form,
}

/// A run of codes in every row: from byte `start`, `bytes` long.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    bytes: usize,
    row_bytes: usize,
    align: usize,
}

impl Run {
    /// The widest word that every row's run is made of.
    fn word_bytes(self) -> usize {
        [4, 2]
            .into_iter()
            .find(|w| [self.start, self.bytes, self.align].iter().all(|x| x % w == 0))
            .unwrap_or(1)
    }

    /// Offsets in words: `[count, words]`.
    #[track_caller]
    fn offsets(self, count: usize) -> Tile<i32, 2> {
        let word = self.word_bytes();
        let rows = iota(count) * (self.row_bytes / word) as i32 + (self.start / word) as i32;
        rows.expand_dims(1) + iota(self.bytes / word).expand_dims(0)
    }
}

impl Form {
    fn row_bytes(&self) -> usize {
        self.shape.row_bytes(self.head_dim as u32) as usize
    }

    /// The planes of the code width with their first byte in a row; empty (reported) for a bad width.
    #[track_caller]
    fn planes(&self) -> Vec<(Plane, usize)> {
        match planes(self.shape.code_bits) {
            Ok(planes) => {
                let start = |i: usize| planes[..i].iter().map(|p| p.bytes(self.head_dim)).sum();
                planes.iter().enumerate().map(|(i, p)| (*p, start(i))).collect()
            }
            Err(error) => {
                record::report(Diagnostic::error(BAD_ARGUMENT, Loc::caller(), error.to_string()));
                Vec::new()
            }
        }
    }

    fn run(&self, plane: Plane, start: usize, first: usize, len: usize) -> Run {
        Run {
            start: start + plane.bytes(first),
            bytes: plane.bytes(len),
            row_bytes: self.row_bytes(),
            align: self.align,
        }
    }

    /// Offsets in 16-bit words of metadata word `word` of every group: `[count, groups]`.
    #[track_caller]
    fn meta_offsets(&self, word: usize) -> Tile<i32, 2> {
        let (groups, words) = (self.shape.groups as i32, self.shape.meta_words as i32);
        let rows = iota(self.count) * (groups * words) + word as i32;
        rows.expand_dims(1) + (iota(groups as usize) * words).expand_dims(0)
    }

    #[track_caller]
    fn mask(&self) -> Tile<bool, 2> {
        self.valid.expand_dims(1)
    }
}

impl Form {
    /// Rows of arrays without pages, 128-byte aligned.
    fn flat(shape: CodecShape, head_dim: usize, count: usize, valid: Tile<bool, 1>) -> Form {
        let row = shape.row_bytes(head_dim as u32);
        Form { shape, head_dim, count, align: 1 << row.trailing_zeros().min(7), valid }
    }
}

impl Rows {
    /// `count` rows from row `first` on of dense arrays `codes: [rows, row bytes]` and `meta: [rows, groups, words]`, both aligned to
    /// 128 bytes.
    #[track_caller]
    pub fn flat(
        codec: &dyn Codec,
        head_dim: usize,
        codes: Ptr<u8>,
        meta: Ptr<u16>,
        first: Scalar<i64>,
        count: usize,
        valid: Tile<bool, 1>,
        tokens: Tokens,
    ) -> Rows {
        let form = Form::flat(codec.shape(), head_dim, count, valid);
        Rows {
            codes: codes.add(first * form.row_bytes() as i64),
            meta: meta.cast::<u8>().add(first * i64::from(form.shape.meta_bytes())),
            form,
            tokens,
        }
    }

    /// Whose rows they are.
    pub fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// The number of rows of the tile, valid or not.
    pub fn count(&self) -> usize {
        self.form.count
    }

    /// Elements of a row.
    pub fn head_dim(&self) -> usize {
        self.form.head_dim
    }

    /// Which rows exist, `[count]`.
    pub fn valid(&self) -> Tile<bool, 1> {
        self.form.valid
    }

    /// All codes, `[count, head_dim]`.
    #[track_caller]
    pub fn codes(&self) -> Tile<Code, 2> {
        self.codes_between(0, self.form.head_dim)
    }

    /// The codes of one group, `[count, head_dim / groups]`.
    #[track_caller]
    pub fn group_codes(&self, group: usize) -> Tile<Code, 2> {
        let len = self.form.head_dim / self.form.shape.groups as usize;
        self.codes_between(group * len, len)
    }

    #[track_caller]
    fn codes_between(&self, first: usize, len: usize) -> Tile<Code, 2> {
        let planes = self.form.planes();
        if let [(plane, start)] = planes[..] {
            return self.plane(self.form.run(plane, start, first, len), plane.width);
        }
        let parts = planes.iter().map(|&(plane, start)| {
            let part = self.plane(self.form.run(plane, start, first, len), plane.width);
            part.cast::<i32>() << plane.shift as i32
        });
        let bits = self.form.shape.code_bits as usize;
        parts.reduce(|a, b| a | b).map_or(Tile::poison(), |codes| codes.cast_code(bits))
    }

    #[track_caller]
    fn plane(&self, run: Run, width: u32) -> Tile<Code, 2> {
        match run.word_bytes() {
            4 => self.words::<u32>(run).unpack(width as usize),
            2 => self.words::<u16>(run).unpack(width as usize),
            _ => self.words::<u8>(run).unpack(width as usize),
        }
    }

    #[track_caller]
    fn words<W: Plain>(&self, run: Run) -> Tile<W, 2> {
        self.codes.cast::<W>().load_masked(run.offsets(self.form.count), self.form.mask())
    }

    /// Unquantised rows of a 16-bit type, `[count, head_dim]`.
    #[track_caller]
    pub fn raw<T: Plain>(&self) -> Tile<T, 2> {
        let row = iota(self.form.count) * (self.form.row_bytes() / 2) as i32;
        let offsets = row.expand_dims(1) + iota(self.form.head_dim).expand_dims(0);
        self.codes.cast::<T>().load_masked(offsets, self.form.mask())
    }

    /// Metadata word `word` of every group as a number, `[count, groups]`.
    #[track_caller]
    pub fn meta(&self, word: usize, t: HalfType) -> Tile<f32, 2> {
        let bits = self.meta.cast::<u16>().load_masked(self.form.meta_offsets(word), self.form.mask());
        decode16(bits, t)
    }

    /// Metadata word `word` of one group as a number, `[count]`.
    #[track_caller]
    pub fn group_meta(&self, group: usize, word: usize, t: HalfType) -> Tile<f32, 1> {
        let words = (self.form.shape.groups * self.form.shape.meta_words) as i32;
        let at = group * self.form.shape.meta_words as usize + word;
        let offsets = iota(self.form.count) * words + at as i32;
        decode16(self.meta.cast::<u16>().load_masked(offsets, self.form.valid), t)
    }
}

impl RowsMut {
    /// As [`Rows::flat`], to write.
    #[track_caller]
    pub fn flat(
        codec: &dyn Codec,
        head_dim: usize,
        codes: PtrMut<u8>,
        meta: PtrMut<u16>,
        first: Scalar<i64>,
        count: usize,
        valid: Tile<bool, 1>,
    ) -> RowsMut {
        let form = Form::flat(codec.shape(), head_dim, count, valid);
        RowsMut {
            codes: codes.add(first * form.row_bytes() as i64),
            meta: meta.cast::<u8>().add(first * i64::from(form.shape.meta_bytes())),
            form,
        }
    }

    /// The number of rows of the tile, valid or not.
    pub fn count(&self) -> usize {
        self.form.count
    }

    /// Writes codes and metadata of the rows that exist.
    #[track_caller]
    pub fn store(&self, encoded: &Encoded) {
        match encoded.codes {
            EncodedCodes::Codes(codes) => self.store_codes(codes),
            EncodedCodes::Words(words) => {
                let row = iota(self.form.count) * (self.form.row_bytes() / 2) as i32;
                let offsets = row.expand_dims(1) + iota(self.form.head_dim).expand_dims(0);
                self.codes.cast::<u16>().store_masked(offsets, words, self.form.mask());
            }
        }
        for (word, bits) in encoded.meta.iter().enumerate() {
            let offsets = self.form.meta_offsets(word);
            self.meta.cast::<u16>().store_masked(offsets, *bits, self.form.mask());
        }
    }

    #[track_caller]
    fn store_codes(&self, codes: Tile<Code, 2>) {
        let planes = self.form.planes();
        for &(plane, start) in &planes {
            let run = self.form.run(plane, start, 0, self.form.head_dim);
            let part = match planes.len() {
                1 => codes,
                _ => (codes.cast::<i32>() >> plane.shift as i32).cast_code(plane.width as usize),
            };
            match run.word_bytes() {
                4 => self.store_words::<u32>(run, part),
                2 => self.store_words::<u16>(run, part),
                _ => self.store_words::<u8>(run, part),
            }
        }
    }

    #[track_caller]
    fn store_words<W: Word>(&self, run: Run, codes: Tile<Code, 2>) {
        let words = codes.pack::<W>();
        self.codes.cast::<W>().store_masked(run.offsets(self.form.count), words, self.form.mask());
    }
}
