//! Rows of codes and metadata: tokens of one side (keys or values), consecutive ones or each in a place of its own.

use crate::diag::Diagnostic;
use crate::format::{CodecShape, HalfType, Plane, planes};
use crate::ir::Loc;
use crate::lang::element::{Code, Plain};
use crate::lang::ops::{Ptr, PtrMut, Word};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::tile::{Operand, Scalar, Tile, iota, iota_of, lit};

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
    /// How the rows follow each other.
    pub(crate) place: Place,
}

/// How rows follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// One after another from the addresses of codes and metadata on.
    Consecutive,
    /// The same, in a page that has a token: for rows without one another row is read again, so that loads need no masks.
    InPage(InPage),
    /// Each in its own slot of its own page; both addresses are the arena's.
    Scattered(Scattered),
}

/// Rows of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPage {
    /// The slot of the first row.
    pub(crate) slot: Scalar<i32>,
    /// Whether a warp loads even and odd rows apart, as it does where it sums over rows, two to a register: values.
    pub(crate) in_pairs: bool,
    /// The number of rows with a token, the first ones; not positive where the page's last token lies before the first row.
    pub(crate) tokens: Scalar<i32>,
}

/// The slots of rows that do not follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scattered {
    /// Numbers of the pages, `[rows]`; offsets in an arena need 64 bits.
    pub(crate) pages: Tile<i64, 1>,
    /// Slots in the pages, `[rows]`.
    pub(crate) slots: Tile<i64, 1>,
    /// Bytes of a page.
    pub(crate) page_bytes: usize,
    /// Where codes begin in a page.
    pub(crate) codes: usize,
    /// Where metadata begins in a page.
    pub(crate) meta: usize,
}

impl Scattered {
    /// Offsets of the rows of a segment in units of `unit` bytes, plus `first` units: `[rows]`. Pages, segments and rows are whole
    /// numbers of units.
    #[track_caller]
    pub(crate) fn rows(&self, segment: usize, row_bytes: usize, unit: usize, first: usize) -> Tile<i64, 1> {
        let in_page = self.slots * (row_bytes / unit) as i64 + (segment / unit + first) as i64;
        self.pages * (self.page_bytes / unit) as i64 + in_page
    }
}

/// Offsets of elements: 32 bits suffice within a page, not within an arena.
enum Offsets<const R: usize> {
    Near(Tile<i32, R>),
    Far(Tile<i64, R>),
}

impl<const R: usize> Offsets<R> {
    #[track_caller]
    fn load<W: Plain>(self, from: Ptr<W>, mask: Option<Tile<bool, R>>) -> Tile<W, R> {
        match (self, mask) {
            (Offsets::Near(offsets), None) => from.load(offsets),
            (Offsets::Near(offsets), Some(mask)) => from.load_masked(offsets, mask),
            (Offsets::Far(offsets), None) => from.load(offsets),
            (Offsets::Far(offsets), Some(mask)) => from.load_masked(offsets, mask),
        }
    }

    #[track_caller]
    fn store<W: Plain>(self, to: PtrMut<W>, value: Tile<W, R>, mask: impl Operand<bool, R>) {
        match self {
            Offsets::Near(offsets) => to.store_masked(offsets, value, mask),
            Offsets::Far(offsets) => to.store_masked(offsets, value, mask),
        }
    }
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

/// Rows as they are stored: words of codes and metadata.
#[derive(Clone, Debug)]
pub struct Stored {
    codes: StoredCodes,
    meta: Vec<Tile<u16, 2>>,
}

/// Codes in the widest words that rows are made of, `[rows, words]`.
#[derive(Clone, Copy, Debug)]
enum StoredCodes {
    Words(Tile<u32, 2>),
    Halves(Tile<u16, 2>),
    Bytes(Tile<u8, 2>),
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
    fn offsets(self, form: &Form) -> Offsets<2> {
        let word = self.word_bytes();
        match form.place {
            Place::Consecutive | Place::InPage(_) => {
                let rows = form.numbers() * (self.row_bytes / word) as i32 + (self.start / word) as i32;
                Offsets::Near(rows.expand_dims(1) + iota(self.bytes / word).expand_dims(0))
            }
            Place::Scattered(at) => {
                let rows = at.rows(at.codes, self.row_bytes, word, self.start / word);
                Offsets::Far(rows.expand_dims(1) + iota_of::<i64>(self.bytes / word).expand_dims(0))
            }
        }
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

    /// The rows that are read for the rows of the tile, `[count]`: for those without a token the last one with a token.
    #[track_caller]
    fn numbers(&self) -> Tile<i32, 1> {
        let rows = iota(self.count);
        if let Place::InPage(InPage { tokens, .. }) = self.place { rows.min(tokens - 1) } else { rows }
    }

    /// As [`numbers`](Form::numbers), of rows that are loaded in pairs the last one that is even for even rows and odd for odd ones, if there is one, so that
    /// no load asks again for what another one has asked for.
    #[track_caller]
    fn numbers_apart(&self) -> Tile<i32, 1> {
        let Place::InPage(InPage { slot, tokens, in_pairs: true }) = self.place else {
            return self.numbers();
        };
        let last = tokens - 1;
        let (even, odd) = (last & !1, (last - 1) | 1);
        let first = lit(0) - slot;
        let rows = iota(self.count);
        rows.min((rows & 1).eq(0).select(even.max(first), odd.max(first)))
    }

    /// Offsets in 16-bit words of metadata word `word` of every group: `[count, groups]`.
    #[track_caller]
    fn meta_offsets(&self, word: usize) -> Offsets<2> {
        let (groups, words) = (self.shape.groups as i32, self.shape.meta_words as i32);
        match self.place {
            Place::Consecutive | Place::InPage(_) => {
                let rows = self.numbers() * (groups * words) + word as i32;
                Offsets::Near(rows.expand_dims(1) + (iota(groups as usize) * words).expand_dims(0))
            }
            Place::Scattered(at) => {
                let rows = at.rows(at.meta, self.shape.meta_bytes() as usize, 2, word);
                let along = iota_of::<i64>(groups as usize) * i64::from(words);
                Offsets::Far(rows.expand_dims(1) + along.expand_dims(0))
            }
        }
    }

    /// Offsets in 16-bit words of every element of unquantised rows: `[count, head_dim]`.
    #[track_caller]
    fn raw_offsets(&self) -> Offsets<2> {
        match self.place {
            Place::Consecutive | Place::InPage(_) => {
                let row = self.numbers_apart() * (self.row_bytes() / 2) as i32;
                Offsets::Near(row.expand_dims(1) + iota(self.head_dim).expand_dims(0))
            }
            Place::Scattered(at) => {
                let rows = at.rows(at.codes, self.row_bytes(), 2, 0);
                Offsets::Far(rows.expand_dims(1) + iota_of::<i64>(self.head_dim).expand_dims(0))
            }
        }
    }

    /// Whether elements are stored unquantised, 16 bits each.
    fn is_raw(&self) -> bool {
        self.shape.code_bits == 16
    }

    /// Whether there is a part with this number; reported at the caller's line when there is none.
    #[track_caller]
    fn has(&self, what: &str, number: usize, count: u32) -> bool {
        let there = number < count as usize;
        if !there {
            let message = format!("{what} {number} of rows that have {count} each");
            record::report(
                Diagnostic::error(BAD_ARGUMENT, Loc::caller(), message)
                    .help("groups and metadata words are those of the codec's shape, numbered from 0"),
            );
        }
        there
    }

    /// All bytes of the rows' codes, as one run.
    fn whole(&self) -> Run {
        Run { start: 0, bytes: self.row_bytes(), row_bytes: self.row_bytes(), align: self.align }
    }

    #[track_caller]
    fn mask(&self) -> Tile<bool, 2> {
        self.valid.expand_dims(1)
    }

    /// What masks loads, if anything must.
    #[track_caller]
    fn load_mask(&self) -> Option<Tile<bool, 1>> {
        (!matches!(self.place, Place::InPage(_))).then_some(self.valid)
    }

    #[track_caller]
    fn load_mask_2d(&self) -> Option<Tile<bool, 2>> {
        self.load_mask().map(|mask| mask.expand_dims(1))
    }
}

impl Form {
    /// Rows of arrays without pages, 128-byte aligned.
    fn flat(shape: CodecShape, head_dim: usize, count: usize, valid: Tile<bool, 1>) -> Form {
        let row = shape.row_bytes(head_dim as u32);
        let align = 1 << row.trailing_zeros().min(7);
        Form { shape, head_dim, count, align, valid, place: Place::Consecutive }
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

    /// Whether the codes of every group fill whole bytes, so that [`Rows::group_codes`] can read one group without the others.
    ///
    /// Known at specialisation time. Four groups of head dim 80 have 20 codes each, which as 1-bit codes (or the 1-bit plane of
    /// wider ones) are two and a half bytes.
    #[track_caller]
    pub fn groups_are_bytes(&self) -> bool {
        let len = self.group_len();
        self.form.planes().iter().all(|(plane, _)| (len * plane.width as usize).is_multiple_of(8))
    }

    fn group_len(&self) -> usize {
        self.form.head_dim / self.form.shape.groups as usize
    }

    /// The codes of one group, `[count, head_dim / groups]`.
    ///
    /// Groups that do not fill whole bytes are an error, reported at the caller's line: see [`Rows::groups_are_bytes`].
    #[track_caller]
    pub fn group_codes(&self, group: usize) -> Tile<Code, 2> {
        let len = self.group_len();
        if !self.form.has("group", group, self.form.shape.groups) {
            return Tile::poison();
        }
        if !self.groups_are_bytes() {
            let what = format!(
                "a group of {len} codes of {} bits does not fill whole bytes",
                self.form.shape.code_bits
            );
            record::report(
                Diagnostic::error(BAD_ARGUMENT, Loc::caller(), what)
                    .help("take `codes()` and split them where `groups_are_bytes()` is false"),
            );
            return Tile::poison();
        }
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
        let codes = self.codes.cast::<W>();
        run.offsets(&self.form).load(codes, self.form.load_mask_2d())
    }

    /// Unquantised rows of a 16-bit type, `[count, head_dim]`. Rows of codes, and other types, are an error at the caller's line.
    #[track_caller]
    pub fn raw<T: Plain>(&self) -> Tile<T, 2> {
        if T::TYPE.bytes() != Some(2) || !self.form.is_raw() {
            let what = format!("elements of {} bits as `{}`", self.form.shape.code_bits, T::TYPE);
            record::report(
                Diagnostic::error(BAD_ARGUMENT, Loc::caller(), what)
                    .help("`raw` reads rows that are stored unquantised, as a type of 16 bits"),
            );
            return Tile::poison();
        }
        let offsets = self.form.raw_offsets();
        offsets.load(self.codes.cast::<T>(), self.form.load_mask_2d())
    }

    /// Metadata word `word` of every group as a number, `[count, groups]`.
    #[track_caller]
    pub fn meta(&self, word: usize, t: HalfType) -> Tile<f32, 2> {
        decode16(self.meta_words(word), t)
    }

    /// Metadata word `word` of every group as it is stored, `[count, groups]`.
    #[track_caller]
    pub fn meta_words(&self, word: usize) -> Tile<u16, 2> {
        if !self.form.has("metadata word", word, self.form.shape.meta_words) {
            return Tile::poison();
        }
        let meta = self.meta.cast::<u16>();
        self.form.meta_offsets(word).load(meta, self.form.load_mask_2d())
    }

    /// Unit `first` of the metadata of every row, which has `count` units of the size of `W`.
    #[track_caller]
    fn meta_run<W: Plain>(&self, first: usize, count: usize) -> Tile<W, 1> {
        let offsets = match self.form.place {
            Place::Consecutive | Place::InPage(_) => {
                Offsets::Near(self.form.numbers() * count as i32 + first as i32)
            }
            Place::Scattered(at) => {
                let bytes = W::TYPE.bytes().unwrap_or(1) as usize;
                Offsets::Far(at.rows(at.meta, self.form.shape.meta_bytes() as usize, bytes, first))
            }
        };
        offsets.load(self.meta.cast::<W>(), self.form.load_mask())
    }

    /// The rows as they are stored, to be written elsewhere in the same format.
    #[track_caller]
    pub fn stored(&self) -> Stored {
        let run = self.form.whole();
        let codes = match run.word_bytes() {
            4 => StoredCodes::Words(self.words(run)),
            2 => StoredCodes::Halves(self.words(run)),
            _ => StoredCodes::Bytes(self.words(run)),
        };
        Stored { codes, meta: (0..self.form.shape.meta_words as usize).map(|w| self.meta_words(w)).collect() }
    }

    /// Metadata word `word` of one group as a number, `[count]`.
    #[track_caller]
    pub fn group_meta(&self, group: usize, word: usize, t: HalfType) -> Tile<f32, 1> {
        let shape = self.form.shape;
        if !self.form.has("group", group, shape.groups)
            || !self.form.has("metadata word", word, shape.meta_words)
        {
            return Tile::poison();
        }
        let words = shape.meta_words as usize;
        let bits = if words == 2 {
            // Both words of a group in one access.
            let both = self.meta_run::<u32>(group, shape.groups as usize);
            (both >> (16 * word as u32)).cast()
        } else {
            self.meta_run(group * words + word, shape.groups as usize * words)
        };
        decode16(bits, t)
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

    /// Writes codes and metadata of the rows that exist. What the codec's shape does not say is an error at the caller's line.
    #[track_caller]
    pub fn store(&self, encoded: &Encoded) {
        let (words, wanted) = (encoded.meta.len(), self.form.shape.meta_words as usize);
        let raw = matches!(encoded.codes, EncodedCodes::Words(_));
        if words != wanted || raw != self.form.is_raw() {
            let stored = |raw| if raw { "16-bit words" } else { "codes" };
            let what = format!(
                "a codec gives {} and {words} metadata word(s), and its shape says {} and {wanted}",
                stored(raw),
                stored(self.form.is_raw())
            );
            record::report(
                Diagnostic::error(BAD_ARGUMENT, Loc::caller(), what)
                    .help("`encode` and `shape` of a codec say the same"),
            );
            return;
        }
        match encoded.codes {
            EncodedCodes::Codes(codes) => self.store_codes(codes),
            EncodedCodes::Words(words) => {
                self.form.raw_offsets().store(self.codes.cast::<u16>(), words, self.form.mask());
            }
        }
        self.store_meta(&encoded.meta);
    }

    #[track_caller]
    fn store_meta(&self, meta: &[Tile<u16, 2>]) {
        for (word, bits) in meta.iter().enumerate() {
            self.form.meta_offsets(word).store(self.meta.cast::<u16>(), *bits, self.form.mask());
        }
    }

    /// Writes rows as they were stored elsewhere in the same format.
    #[track_caller]
    pub fn store_as_is(&self, rows: &Stored) {
        let offsets = self.form.whole().offsets(&self.form);
        match rows.codes {
            StoredCodes::Words(words) => offsets.store(self.codes.cast::<u32>(), words, self.form.mask()),
            StoredCodes::Halves(words) => offsets.store(self.codes.cast::<u16>(), words, self.form.mask()),
            StoredCodes::Bytes(words) => offsets.store(self.codes, words, self.form.mask()),
        }
        self.store_meta(&rows.meta);
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
        let codes = self.codes.cast::<W>();
        run.offsets(&self.form).store(codes, words, self.form.mask());
    }
}
