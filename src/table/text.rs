//! Texts in a fixed place: short ones whole, long ones by their hash.

use super::Span;
use super::hash::{fold, hash, tail};

/// Up to so many bytes are kept in a [`Packed`].
const INLINE: usize = 15;
/// Stands where the length of a short text would.
const LONG: u64 = 0xFF << 56;
/// A longer text cannot be kept.
pub(super) const LONGEST: usize = 0xFF_FFFF;

/// A text of up to 15 bytes, or the hash of a longer one and where it stands.
///
/// Short: the bytes from the lowest on, the length uppermost. Long: the hash; the place, the length and [`LONG`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Packed {
    low: u64,
    high: u64,
}

/// A text that is looked up.
pub(super) struct Wanted<'t> {
    packed: Packed,
    text: &'t [u8],
}

impl Packed {
    /// A text, which is added to `texts` if it is long.
    pub(super) fn new(text: &[u8], texts: &mut Vec<u8>) -> Self {
        let wanted = Wanted::new(text);
        if text.len() <= INLINE {
            return wanted.packed;
        }
        let place = texts.len() as u64;
        texts.extend_from_slice(text);
        Packed { high: LONG | (text.len() as u64) << 32 | place, ..wanted.packed }
    }

    /// Where it belongs in a hash table.
    #[inline]
    pub(super) fn hash(self) -> u64 {
        if self.high >= LONG { self.low } else { fold(self.low, self.high) }
    }

    fn span(self) -> Span {
        Span { start: self.high as u32, len: (self.high >> 32) as u32 & LONGEST as u32 }
    }
}

impl<'t> Wanted<'t> {
    #[inline]
    pub(super) fn new(text: &'t [u8]) -> Self {
        if text.len() > INLINE {
            return Wanted { packed: Packed { low: hash(0, text), high: LONG }, text };
        }
        let (low, rest) = match text.split_first_chunk::<8>() {
            Some((first, rest)) => (u64::from_le_bytes(*first), rest),
            None => (tail(text), &[][..]),
        };
        // What is left has at most seven bytes: the uppermost is the length's.
        let high = if rest.is_empty() { 0 } else { tail(text) };
        Wanted { packed: Packed { low, high: high | (text.len() as u64) << 56 }, text }
    }

    /// Where it would be in a hash table.
    #[inline]
    pub(super) fn hash(&self) -> u64 {
        self.packed.hash()
    }

    /// Whether `other`, of `texts`, is the same text.
    #[inline]
    pub(super) fn is(&self, other: Packed, texts: &[u8]) -> bool {
        if self.packed.high < LONG {
            return self.packed == other;
        }
        self.packed.low == other.low && other.high >= LONG && other.span().of(texts) == self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_any_length_are_told_apart() {
        let mut texts = Vec::new();
        let all: Vec<Vec<u8>> = (0..=40).flat_map(|len| [0u8, 1, b'a', 0xFF].map(|byte| vec![byte; len])).collect();
        let packed: Vec<_> = all.iter().map(|text| Packed::new(text, &mut texts)).collect();
        for text in &all {
            let wanted = Wanted::new(text);
            for (known, packed) in all.iter().zip(&packed) {
                assert_eq!(wanted.is(*packed, &texts), known == text, "{text:?} {known:?}");
                assert!(known != text || wanted.hash() == packed.hash());
            }
        }
    }

    #[test]
    fn texts_of_one_length_that_differ_in_one_byte_are_told_apart() {
        let mut texts = Vec::new();
        for len in 1..=33 {
            let text = vec![b'x'; len];
            let packed = Packed::new(&text, &mut texts);
            for at in 0..len {
                let mut other = text.clone();
                other[at] = b'y';
                assert!(!Wanted::new(&other).is(packed, &texts), "{len} {at}");
            }
        }
    }
}
