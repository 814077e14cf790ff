//! How tables look: one rule under the head, numbers to the right, no wider than the terminal.

use std::fmt::{self, Display};
use std::ops::{Deref, DerefMut};

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Row, Width};

use crate::terminal;

/// A table; as text it fits the terminal.
pub(crate) struct Table {
    table: comfy_table::Table,
    /// The first column of numbers.
    numbers: usize,
}

/// An empty table with this head.
pub(crate) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = comfy_table::Table::new();
    table.set_header(head);
    Table { table, numbers: usize::MAX }
}

/// Aligns all columns but the first `text` to the right: they hold numbers.
pub(crate) fn numbers_from(table: &mut Table, text: usize) {
    table.numbers = text;
}

impl Deref for Table {
    type Target = comfy_table::Table;

    fn deref(&self) -> &comfy_table::Table {
        &self.table
    }
}

impl DerefMut for Table {
    fn deref_mut(&mut self) -> &mut comfy_table::Table {
        &mut self.table
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.within(terminal::width()))
    }
}

/// Spaces beside a column's text.
const PADDING: usize = 2;

/// Words up to this many characters stay whole; longer ones are paths and specialisations.
const WORD: usize = 24;

impl Table {
    /// The table in lines of `width` characters. Cells are broken between words. Columns whose words do not fit beside the others stand
    /// below them, with the first column again.
    fn within(&self, width: usize) -> String {
        let columns = self.rows().map(|row| row.cell_count()).max().unwrap_or(0);
        let mut words = vec![1; columns];
        for (line, row) in self.rows().enumerate() {
            for (at, (word, cell)) in words.iter_mut().zip(row.cell_iter()).enumerate() {
                // A number stays with its unit.
                let number = line > 0 && at >= self.numbers;
                *word = longest(cell, if number { '\n' } else { ' ' }).max(*word);
            }
        }
        let used = |columns: &[usize]| columns.iter().map(|&at| words[at].min(WORD) + PADDING).sum::<usize>();
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for column in 0..columns {
            match parts.last_mut() {
                Some(part) if used(part) + used(&[column]) <= width || part.as_slice() == [0] => {
                    part.push(column)
                }
                Some(_) => parts.push(vec![0, column]),
                None => parts.push(vec![column]),
            }
        }
        let shown: Vec<String> = parts.iter().map(|part| self.part(part, &words, width).trim_fmt()).collect();
        shown.join("\n\n")
    }

    /// The head and the rows.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.table.header().into_iter().chain(self.table.row_iter())
    }

    /// Some of the columns, in `width` characters.
    fn part(&self, columns: &[usize], words: &[usize], width: usize) -> comfy_table::Table {
        let cells = |row: &Row| -> Vec<Cell> {
            columns
                .iter()
                .map(|&at| row.cell_iter().nth(at).cloned().unwrap_or_else(|| Cell::new("")))
                .collect()
        };
        let mut table = comfy_table::Table::new();
        table
            .load_style(NOTHING.header_separator(LineStyle::none().fill('─')))
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width.try_into().unwrap_or(u16::MAX))
            .set_header(self.table.header().map(cells).unwrap_or_default())
            .add_rows(self.table.row_iter().map(cells));
        // As much of the longest words as fits.
        let room = width.saturating_sub(PADDING * columns.len());
        let used = |most: usize| columns.iter().map(|&at| words[at].min(most)).sum::<usize>();
        let most = (1..=room).rev().find(|&most| used(most) <= room).unwrap_or(1);
        for (column, &at) in table.column_iter_mut().zip(columns) {
            let least = words[at].min(most) + PADDING;
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(
                least.try_into().unwrap_or(u16::MAX),
            )));
            if at >= self.numbers {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// Characters of a cell's longest part between separators; lines are apart in any case.
fn longest(cell: &Cell, separator: char) -> usize {
    let part = cell.content().split([separator, '\n']).map(|part| part.chars().count()).max();
    part.unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::{numbers_from, table};

    #[test]
    fn a_table_fits_and_keeps_words_whole() {
        let mut table = table(["kernel", "what it does", "bytes", "warp instructions"]);
        let text = "Adds significance to the tokens that a query has seen, in order.";
        table.add_row(["decode_attention", text, "123456789", "42"]);
        table.add_row(["rope", "Rotates.", "1.5 MB", "123456789012"]);
        numbers_from(&mut table, 2);
        for width in [24, 32, 40, 56, 57, 80, 100, 200] {
            let shown = table.within(width);
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} columns, not {width}:\n{shown}");
            // The longest words are of 16, 12, 9 and 12 characters, with two spaces a column.
            let whole = ["decode_attention", "significance", "123456789", "123456789012"]
                .iter()
                .all(|word| shown.split_whitespace().any(|part| part == *word));
            assert_eq!(whole, width >= 32, "{width}:\n{shown}");
            assert!(shown.contains("1.5 MB"), "{shown}");
            assert_eq!(shown.matches("decode").count() > 1, width < 57, "{width}:\n{shown}");
        }
        let wide = table.within(200);
        assert_eq!(wide.lines().count(), 4, "{wide}");
        assert!(wide.lines().nth(2).unwrap().ends_with("  42") && !wide.contains(" \n"), "{wide}");
    }

    #[test]
    fn a_path_is_broken_before_the_table_is() {
        let mut table = table(["model", "path"]);
        let path = "/a/long/path".repeat(8);
        table.add_row(["model", path.as_str()]);
        let shown = table.within(60);
        assert!(shown.lines().all(|line| line.chars().count() <= 60), "{shown}");
        assert_eq!(shown.matches('─').count(), 60, "one table: {shown}");
        let whole: String =
            shown.lines().skip(2).map(|line| line.replace("model", "").trim().to_owned()).collect();
        assert_eq!(whole, path);
    }
}
