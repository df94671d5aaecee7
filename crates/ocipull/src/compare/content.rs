//! Whether two files have the same bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ctsys::{SysError, held};

use super::Side;

/// What is read of each file at once: enough that the calls cost nothing beside the copying.
const PIECE_BYTES: usize = 128 << 10;

/// Room for a piece of each file, kept from file to file.
#[derive(Debug)]
pub(super) struct Pieces {
    image: Box<[u8]>,
    tree: Box<[u8]>,
}

/// Why bytes were not compared.
#[derive(Debug)]
pub(super) enum Unread {
    Of(Side, SysError),
    Over,
}

impl Pieces {
    pub(super) fn new() -> Self {
        let piece = || vec![0; PIECE_BYTES].into_boxed_slice();
        Self { image: piece(), tree: piece() }
    }

    /// Whether the first `size` bytes of the files are the same. With `skip_holes` what is a hole
    /// in both is passed over. `is_over` is asked at each piece.
    pub(super) fn are_same(
        &mut self,
        (image, tree): (&File, &File),
        size: u64,
        skip_holes: bool,
        is_over: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Unread> {
        let mut at = 0;
        while at < size {
            if is_over() {
                return Err(Unread::Over);
            }
            if skip_holes {
                let next = |side, file| held::next_data(file, at).map_err(|e| Unread::Of(side, e));
                let data = [next(Side::Image, image)?, next(Side::Tree, tree)?];
                let Some(first) = data.into_iter().flatten().min() else { break };
                at = first.max(at);
            }
            let want = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
            let want = want.min(PIECE_BYTES);
            let a = read(image, &mut self.image, want, at).map_err(|e| unread(Side::Image, &e))?;
            let b = read(tree, &mut self.tree, want, at).map_err(|e| unread(Side::Tree, &e))?;
            // One that became shorter meanwhile is another one now.
            if a.len() != want || a != b {
                return Ok(false);
            }
            at += want as u64;
        }
        Ok(true)
    }
}

fn unread(side: Side, error: &io::Error) -> Unread {
    Unread::Of(side, SysError::from_io("pread64", "", error))
}

/// Up to `want` bytes from `at` on; fewer at the file's end only.
fn read<'a>(file: &File, piece: &'a mut [u8], want: usize, at: u64) -> io::Result<&'a [u8]> {
    let mut have = 0;
    while let Some(room) = piece.get_mut(have..want).filter(|room| !room.is_empty()) {
        match file.read_at(room, at + have as u64) {
            Ok(0) => break,
            Ok(got) => have += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(piece.get(..have).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    fn same(a: &File, b: &File, size: u64, skip_holes: bool) -> bool {
        Pieces::new().are_same((a, b), size, skip_holes, &mut || false).unwrap()
    }

    fn file(size: u64, pieces: &[(u64, &[u8])]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file
    }

    #[test]
    fn a_byte_anywhere_makes_a_difference() {
        let size = 3 * PIECE_BYTES as u64 + 5;
        let plain = || file(size, &[(0, &vec![b'x'; PIECE_BYTES * 3])]);
        let one = plain();
        assert!(same(&one, &plain(), size, false));
        for at in [0, PIECE_BYTES as u64 - 1, PIECE_BYTES as u64, size - 1] {
            let mut other = plain();
            other.seek(SeekFrom::Start(at)).unwrap();
            other.write_all(b"y").unwrap();
            assert!(!same(&one, &other, size, false), "{at}");
            assert!(!same(&other, &one, size, true), "{at}");
        }
        // Shorter than it was said to be.
        assert!(!same(&one, &one, size + 1, false));
    }

    #[test]
    fn holes_are_zeros_and_cost_nothing() {
        // Reading these would take minutes.
        let size = 1 << 42;
        let sparse = |bytes: &[u8]| file(size, &[(1 << 41, bytes)]);
        assert!(same(&sparse(b"data"), &sparse(b"data"), size, true));
        assert!(!same(&sparse(b"data"), &sparse(b"date"), size, true));
        assert!(!same(&sparse(b"data"), &file(size, &[]), size, true));
        // Zeros that are written are the same as a hole.
        assert!(same(&file(9000, &[(0, &[0; 9000])]), &file(9000, &[]), 9000, true));
    }

    #[test]
    fn the_search_ends_when_it_is_told() {
        let one = file(9, &[]);
        let told = Pieces::new().are_same((&one, &one), 9, false, &mut || true);
        assert!(matches!(told, Err(Unread::Over)));
    }
}
