//! Parts of a segment that differ in how they lie to words and pages, and a
//! plain memory to compare with.

use std::ops::Range;

use shm_common::{Access, SharedBytes};

use crate::mechanism::Mechanism;
use crate::page;

/// Lengths of segments: from one byte to some pages, and no multiples of one,
/// where the mechanism has such.
pub(crate) fn sizes<M: Mechanism>() -> [usize; 6] {
    let page = page();
    [1, 2, page - 1, page, page + 1, 3 * page - 5].map(M::length)
}

/// A length of more than a page.
pub(crate) fn odd<M: Mechanism>() -> usize {
    M::length(page() + 1)
}

/// The parts of a segment of `len` bytes, as far as it has them.
pub(crate) fn pieces(len: usize) -> Vec<Range<usize>> {
    let page = page();
    let all = [
        0..1,                       // the first byte
        0..16,                      // an aligned word
        1..2,                       // an odd byte
        3..10,                      // an odd length at an odd offset
        13..333,                    // longer than any word, odd
        page - 1..page,             // the last byte of a page
        page..page + 1,             // the first byte of a page
        page - 3..page + 4,         // across the end of a page
        page / 2 - 1..2 * page + 7, // a whole page and parts of others
        len.saturating_sub(9)..len, // the end
        len - 1..len,               // the last byte
        0..len,                     // everything
    ];
    all.into_iter().filter(|piece| piece.end <= len).collect()
}

/// What a segment should hold.
pub(crate) struct Model(Vec<u8>);

impl Model {
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Bytes that no other piece has, put into the model.
    pub(crate) fn write(&mut self, piece: Range<usize>, seed: usize) -> &[u8] {
        for offset in piece.clone() {
            // Never zero, and different for neighbours and for other seeds.
            let value = (seed * 37 + offset * 7) % 251 + 1;
            self.0[offset] = value.to_le_bytes()[0];
        }
        &self.0[piece]
    }

    pub(crate) fn put(&mut self, offset: usize, data: &[u8]) {
        self.0[offset..offset + data.len()].copy_from_slice(data);
    }

    /// The piece by itself, and all bytes around it.
    pub(crate) fn check<A: Access>(
        &self,
        bytes: SharedBytes<'_, A>,
        piece: Range<usize>,
    ) {
        let mut copy = vec![0; piece.len()];
        bytes.read_at(piece.start, &mut copy).unwrap();
        assert!(copy == self.0[piece.clone()], "{piece:?} differs");
        let all = bytes.to_vec();
        let mut pairs = all.iter().zip(&self.0);
        let differs = pairs.position(|(found, expected)| found != expected);
        assert_eq!(differs, None, "first byte that differs, after {piece:?}");
        assert_eq!(all.len(), self.0.len());
    }
}
