//! Rows of numbers whose columns have names.

/// A row of numbers with names, of one definition for the host and for kernels: a struct `Name<T = i32>` with a field a column, in the order of the
/// columns.
///
/// The host's numbers are a `Name`, those of a kernel a `Name<Scalar<i32>>`, and `Name::AT` says which column each is.
///
/// ```
/// use leankv_dsl::lang::{ViewMut, kernel, lit, program_id, row};
///
/// row! {
///     /// Tokens of two lists.
///     pub struct Counts {
///         /// Of the first.
///         first,
///         /// Of the second.
///         second,
///     }
/// }
///
/// let rows = [3, 4, 5, 6];
/// assert_eq!(Counts::get(&rows, 1), Counts { first: 5, second: 6 });
/// assert_eq!((Counts::COLUMNS, Counts::AT.second), (2, 1));
///
/// /// Exchanges the numbers of each row of `[rows, 2]`.
/// #[kernel]
/// fn exchange(rows: ViewMut<i32, 2>) {
///     let row = program_id(0);
///     let counts = Counts::load(|column| rows.get([row, lit(column)]));
///     let exchanged = Counts { first: counts.second, second: counts.first };
///     exchanged.store(|column, number| rows.set([row, lit(column)], number));
/// }
/// exchange::build(&ExchangeSpec {})?;
/// # Ok::<(), leankv_dsl::diag::Diagnostics>(())
/// ```
#[macro_export]
macro_rules! row {
    ($(#[$about:meta])* $vis:vis struct $name:ident { $($(#[$about_field:meta])* $field:ident),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis struct $name<T = i32> {
            $($(#[$about_field])* pub $field: T,)+
        }

        impl $name {
            /// Numbers of a row.
            pub const COLUMNS: usize = [$(stringify!($field)),+].len();

            /// The column of each number.
            pub const AT: Self = {
                let mut columns = [0; Self::COLUMNS];
                let mut column = 0;
                while column < Self::COLUMNS {
                    columns[column] = column as i32;
                    column += 1;
                }
                Self::from_row(columns)
            };
        }

        #[allow(dead_code, reason = "not all rows are read and written on both sides")]
        impl<T: Copy> $name<T> {
            /// The numbers of a row.
            #[must_use]
            pub const fn from_row(row: [T; <$name>::COLUMNS]) -> Self {
                let [$($field),+] = row;
                Self { $($field),+ }
            }

            /// As a row.
            #[must_use]
            pub const fn to_row(self) -> [T; <$name>::COLUMNS] {
                [$(self.$field),+]
            }

            /// Row number `row` of rows one after another.
            ///
            /// # Panics
            /// There are not so many rows.
            #[must_use]
            #[track_caller]
            pub fn get(rows: &[T], row: usize) -> Self {
                let first = row * <$name>::COLUMNS;
                Self::load(|column| rows[first + column as usize])
            }

            /// Makes it row number `row` of rows one after another.
            ///
            /// # Panics
            /// There are not so many rows.
            #[track_caller]
            pub fn put(self, rows: &mut [T], row: usize) {
                rows[row * <$name>::COLUMNS..][..<$name>::COLUMNS].copy_from_slice(&self.to_row());
            }

            /// The numbers that `number` gives for each column, in order.
            #[must_use]
            pub fn load(mut number: impl FnMut(i32) -> T) -> Self {
                Self::from_row(std::array::from_fn(|column| number(column as i32)))
            }

            /// Gives `number` each column with its number, in order.
            pub fn store(self, mut number: impl FnMut(i32, T)) {
                (0..).zip(self.to_row()).for_each(|(column, value)| number(column, value));
            }
        }
    };
}

pub use row;
