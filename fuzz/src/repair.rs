//! Checksums for what libFuzzer changes: else hardly any mutation of a tar stream would get past
//! the first header.

use ocipull::apply::tar::header::{BLOCK_BYTES, number};

/// Mutates as libFuzzer does by itself, then makes the headers' checksums right; one time in
/// sixteen they are left as they come.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    if !seed.is_multiple_of(16) {
        checksums(&mut data[..size]);
    }
    size
}

fn checksums(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK_BYTES) {
        if block.iter().all(|&b| b == 0) {
            return;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = number("size", &block[124..136]).ok().and_then(|n| usize::try_from(n).ok());
        let data = match block[156] {
            b'1'..=b'6' => 0,
            _ => size.unwrap_or(0),
        };
        let Some(next) = data.checked_next_multiple_of(BLOCK_BYTES) else { return };
        let Some(next) = next.checked_add(at + BLOCK_BYTES) else { return };
        at = next;
    }
}
