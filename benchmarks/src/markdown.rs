//! Tables of the report.

use std::fmt;

/// A table, row by row.
pub(crate) struct Table {
    text: String,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(head);
        table.row(["---"; N]);
        table
    }

    pub(crate) fn row<T: fmt::Display>(
        &mut self,
        cells: impl IntoIterator<Item = T>,
    ) {
        for cell in cells {
            self.text.push_str(&format!("| {cell} "));
        }
        self.text.push_str("|\n");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
