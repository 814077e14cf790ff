//! How tables look: one rule under the head, numbers to the right, no wider than the terminal.

use std::fmt::{self, Display};
use std::ops::{Deref, DerefMut};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Row, Width};

use crate::terminal;

/// A table; its text fits the terminal.
pub(crate) struct Table(comfy_table::Table);

/// An empty table with this head.
pub(crate) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(NOTHING.header_separator(LineStyle::none().fill('─').junction('─')))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(head);
    Table(table)
}

/// Aligns all columns but the first `text` to the right: they hold numbers.
pub(crate) fn numbers_from(table: &mut Table, text: usize) {
    for column in table.column_iter_mut().skip(text) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

impl Deref for Table {
    type Target = comfy_table::Table;

    fn deref(&self) -> &comfy_table::Table {
        &self.0
    }
}

impl DerefMut for Table {
    fn deref_mut(&mut self) -> &mut comfy_table::Table {
        &mut self.0
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.within(terminal::width()).fmt(f)
    }
}

impl Table {
    /// The table in `width` columns. Cells are broken between words; within words only where the words alone are too wide, the longest
    /// ones first.
    fn within(&self, width: usize) -> comfy_table::Table {
        let mut table = self.0.clone();
        let mut words: Vec<usize> = Vec::new();
        for row in table.header().into_iter().chain(table.row_iter()) {
            for (at, longest) in longest_words(row).enumerate() {
                match words.get_mut(at) {
                    Some(word) => *word = longest.max(*word),
                    None => words.push(longest),
                }
            }
        }
        let padding: usize = table.column_iter().map(|column| usize::from(column.padding_width())).sum();
        let room = width.saturating_sub(padding);
        let used = |most: usize| words.iter().map(|&word| word.min(most)).sum::<usize>();
        let most = (1..=room).rev().find(|&most| used(most) <= room).unwrap_or(1);
        for (column, word) in table.column_iter_mut().zip(&words) {
            let least = (*word).min(most) as u16 + column.padding_width();
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
        table.set_width(width.try_into().unwrap_or(u16::MAX));
        table
    }
}

/// The characters of each cell's longest word.
fn longest_words(row: &Row) -> impl Iterator<Item = usize> {
    row.cell_iter().map(|cell| {
        let text = cell.content();
        text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(1)
    })
}

#[cfg(test)]
mod tests {
    use super::{numbers_from, table};

    #[test]
    fn a_table_fits_and_keeps_words_whole_while_they_fit() {
        let mut table = table(["kernel", "what it does", "bytes", "warp instructions"]);
        let text = "Adds significance to the tokens that a query has seen, in order.";
        table.add_row(["decode_attention", text, "123456789", "42"]);
        table.add_row(["rope", "Rotates.", "1", "123456789012"]);
        numbers_from(&mut table, 2);
        for width in [30, 40, 56, 60, 80, 100, 200] {
            let shown = table.within(width).to_string();
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} columns, not {width}:\n{shown}");
            // Words of 16, 12, 9 and 12 characters, and two spaces a column.
            let whole = ["decode_attention", "significance", "123456789", "123456789012"]
                .iter()
                .all(|word| shown.split_whitespace().any(|part| part == *word));
            assert_eq!(whole, width >= 57, "{width}:\n{shown}");
        }
    }
}
