//! A fast hash for tables whose keys come from configuration.
//!
//! Requests look up and never insert, so a client cannot make entries collide: all that it can do is choose among the
//! chains that the configuration has made. Who writes the configuration of one virtual host can make its own keys
//! collide, and slows down nobody else's. Names of hosts, where many owners meet in one table, are hashed with a seed
//! that is drawn when the table is made.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map under the fast hash.
pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// The fast hash for whatever derives `Hash`.
#[derive(Clone, Copy, Default)]
pub(crate) struct FastHasher(u64);

const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const START: u64 = 0x243F_6A88_85A3_08D3;

/// Multiplies into twice the width, and folds the halves together: every bit of the input moves every bit.
#[inline]
pub(super) fn fold(state: u64, word: u64) -> u64 {
    let wide = u128::from(state ^ word) * u128::from(FACTOR);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// The hash of a text, eight bytes at a time. Some of the last eight are read twice, for which nothing has to be shifted.
#[inline]
pub(super) fn hash(seed: u64, text: &[u8]) -> u64 {
    let mut state = START ^ seed ^ (text.len() as u64) << 56;
    let Some(last) = text.last_chunk::<8>() else { return fold(state, tail(text)) };
    let mut rest = text;
    while let Some((word, left @ [_, ..])) = rest.split_first_chunk::<8>() {
        state = fold(state, u64::from_le_bytes(*word)).rotate_left(17);
        rest = left;
    }
    fold(state, u64::from_le_bytes(*last))
}

/// The bytes behind the last whole word, as a number.
#[inline]
pub(super) fn tail(text: &[u8]) -> u64 {
    let left = text.len() % 8;
    if left == 0 {
        return 0;
    }
    if let Some(last) = text.last_chunk::<8>() {
        return u64::from_le_bytes(*last) >> (64 - 8 * left);
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (8 * (left - 4));
    }
    text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(self.0, bytes);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = fold(self.0.rotate_left(5) ^ START, value);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_share_most_of_their_bytes_hash_differently() {
        let texts: Vec<Vec<u8>> = (0..=40).flat_map(|len| [0u8, 1, b'a'].map(|byte| vec![byte; len])).collect();
        for (n, text) in texts.iter().enumerate() {
            for other in &texts[..n] {
                assert!(text == other || hash(0, text) != hash(0, other), "{text:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_tail_is_what_stands_behind_the_words() {
        for len in 0..32usize {
            let text: Vec<u8> = (1..=len as u8).collect();
            let behind = &text[len / 8 * 8..];
            let expected = behind.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            assert_eq!(tail(&text), expected, "{len}");
        }
    }
}
