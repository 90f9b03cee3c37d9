//! The content of every payload byte: a pure function of (seed, connection, exchange, direction, position).
//!
//! Client and server both compute it, so nothing is stored, and every byte is checked on arrival. It is one fixed table of random
//! words, XORed with a key that changes every 4 KiB. This is cheap enough for bulk streams, and it still shows swapped connections,
//! duplicates, gaps and shifts.

const BLOCK: usize = 4096;

/// The direction of a payload, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// The content of one payload: one direction of one exchange on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    key: u64,
}

impl Pattern {
    /// The pattern of exchange number `exchange` (from 0) in `direction` on `connection`, of a run with this `seed`.
    pub fn new(seed: u64, connection: u64, exchange: u64, direction: Direction) -> Self {
        Self { key: mix_all([seed, connection, exchange, u64::from(direction == Direction::Down)]) }
    }

    /// Writes the content from `position` (bytes from the start of the payload) on into all of `out`.
    pub fn fill(self, position: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let (table, key) = self.segment(position + done as u64);
            let length = table.len().min(out.len() - done);
            xor(&table[..length], key, &mut out[done..done + length]);
            done += length;
        }
    }

    /// Index in `data` of the first byte that is not the content from `position` on; `None` when all are right.
    pub fn mismatch(self, position: u64, data: &[u8]) -> Option<usize> {
        let mut done = 0;
        while done < data.len() {
            let (table, key) = self.segment(position + done as u64);
            let length = table.len().min(data.len() - done);
            if let Some(at) = difference(&table[..length], key, &data[done..done + length]) {
                return Some(done + at);
            }
            done += length;
        }
        None
    }

    /// The one byte at `position`.
    pub fn byte(self, position: u64) -> u8 {
        let mut byte = [0];
        self.fill(position, &mut byte);
        byte[0]
    }

    /// The rest of the table from `position` to the end of its block, and the key as it lies over that position.
    fn segment(self, position: u64) -> (&'static [u8], u64) {
        let offset = (position % BLOCK as u64) as usize;
        let key = mix(self.key.wrapping_add(position / BLOCK as u64));
        (&TABLE[offset..], key.rotate_right(8 * (offset as u32 % 8)))
    }
}

fn xor(table: &[u8], key: u64, out: &mut [u8]) {
    let (words, tail) = table.as_chunks::<8>();
    let (out_words, out_tail) = out.as_chunks_mut::<8>();
    for (out, word) in out_words.iter_mut().zip(words) {
        *out = (u64::from_le_bytes(*word) ^ key).to_le_bytes();
    }
    for ((out, byte), key) in out_tail.iter_mut().zip(tail).zip(key.to_le_bytes()) {
        *out = byte ^ key;
    }
}

fn difference(table: &[u8], key: u64, data: &[u8]) -> Option<usize> {
    let (words, tail) = table.as_chunks::<8>();
    let (data_words, data_tail) = data.as_chunks::<8>();
    // One pass without a branch, which the compiler turns into vector code. Only if it finds a difference, the place is searched.
    let wrong = data_words
        .iter()
        .zip(words)
        .fold(0, |wrong, (data, word)| wrong | (u64::from_le_bytes(*data) ^ u64::from_le_bytes(*word) ^ key));
    let keys = key.to_le_bytes();
    let tail_wrong = data_tail.iter().zip(tail).zip(keys).any(|((data, byte), key)| *data != byte ^ key);
    if wrong == 0 && !tail_wrong {
        return None;
    }
    (0..data.len()).find(|&at| data[at] != table[at] ^ keys[at % 8])
}

static TABLE: [u8; BLOCK] = table();

const fn table() -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let mut at = 0;
    while at < BLOCK {
        let word = mix(at as u64).to_le_bytes();
        let mut byte = 0;
        while byte < 8 {
            bytes[at + byte] = word[byte];
            byte += 1;
        }
        at += 8;
    }
    bytes
}

/// Makes one number from several. Each is mixed in turn: a plain XOR would be the same for (1, 2) and (2, 1).
pub(crate) fn mix_all<const N: usize>(values: [u64; N]) -> u64 {
    values.into_iter().fold(0, |mixed, value| mix(mixed ^ value))
}

/// The output function of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pattern: Pattern, position: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        pattern.fill(position, &mut out);
        out
    }

    #[test]
    fn any_cut_of_a_stream_is_the_same_stream() {
        let pattern = Pattern::new(1, 2, 3, Direction::Up);
        let whole = content(pattern, 0, 3 * BLOCK);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let from = random.usize(..whole.len());
            let to = random.usize(from..=whole.len());
            assert_eq!(content(pattern, from as u64, to - from), whole[from..to]);
            assert_eq!(pattern.mismatch(from as u64, &whole[from..to]), None);
        }
    }

    #[test]
    fn every_flipped_byte_is_found_where_it_is() {
        let pattern = Pattern::new(1, 2, 3, Direction::Down);
        let start = BLOCK as u64 - 21;
        let right = content(pattern, start, 61);
        for at in 0..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(pattern.mismatch(start, &wrong), Some(at));
        }
    }

    #[test]
    fn connections_exchanges_directions_and_seeds_differ() {
        let mine = content(Pattern::new(1, 2, 3, Direction::Up), 0, 64);
        for other in [
            Pattern::new(1, 3, 3, Direction::Up),
            Pattern::new(1, 3, 2, Direction::Up),
            Pattern::new(1, 2, 4, Direction::Up),
            Pattern::new(1, 2, 3, Direction::Down),
            Pattern::new(2, 2, 3, Direction::Up),
            Pattern::new(2, 1, 3, Direction::Up),
        ] {
            assert!(other.mismatch(0, &mine).is_some());
        }
    }

    #[test]
    fn shifts_show_at_once_also_by_whole_words_and_blocks() {
        let pattern = Pattern::new(9, 9, 9, Direction::Down);
        for shift in [1, 7, 8, 64, BLOCK as u64, 2 * BLOCK as u64, 1 << 20, 1 << 32] {
            let shifted = content(pattern, shift, 64);
            assert!(pattern.mismatch(0, &shifted).is_some_and(|at| at < 8), "shift by {shift}");
        }
    }

    #[test]
    fn the_content_is_fixed_so_that_two_versions_understand_each_other() {
        let bytes = content(Pattern::new(1, 2, 3, Direction::Up), 4093, 8);
        assert_eq!(bytes, [239, 25, 254, 93, 189, 190, 209, 178]);
    }
}
