//! Sparse maps: where a file's data lies, the rest being holes. Pure.
//!
//! Four forms: old GNU (in the header and extension blocks), PAX 0.0 (a pair of records an
//! extent), 0.1 (one record) and 1.0 (text before the data).

use super::TarError;
use super::header::{BLOCK_BYTES, Block, number};
use super::pax::PaxSparse;
use crate::apply::limits::{MAX_SPARSE_EXTENTS, MAX_SPARSE_FILE_BYTES, MAX_SPECIAL_BYTES};

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Which of the PAX forms an entry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaxForm {
    /// None of them, or one that nobody knows: an ordinary file.
    None,
    /// 0.0 or 0.1: the map stands in the header.
    InHeader(Vec<Extent>),
    /// 1.0: the map stands before the data.
    BeforeData,
}

/// What the extended header says.
pub fn pax_form(sparse: &PaxSparse) -> Result<PaxForm, TarError> {
    match (sparse.major, sparse.minor) {
        (Some(1), Some(0)) => Ok(PaxForm::BeforeData),
        (Some(0), Some(0 | 1)) => in_header(sparse),
        (None, None) if !sparse.map.is_empty() => in_header(sparse),
        _ => Ok(PaxForm::None),
    }
}

fn in_header(sparse: &PaxSparse) -> Result<PaxForm, TarError> {
    if sparse.block_count.and_then(|n| n.checked_mul(2)) != Some(sparse.map.len() as u64) {
        return Err(TarError::Sparse { reason: "the number of extents is not the one announced" });
    }
    Ok(PaxForm::InHeader(pairs(&sparse.map)))
}

fn pairs(numbers: &[u64]) -> Vec<Extent> {
    let pairs = numbers.chunks_exact(2);
    pairs.filter_map(|p| Some(Extent { offset: *p.first()?, length: *p.get(1)? })).collect()
}

/// The old GNU form, from the header on: extents, and whether an extension block follows.
#[derive(Debug, Default)]
pub struct OldGnuMap {
    /// What was read so far.
    pub extents: Vec<Extent>,
    ended: bool,
}

impl OldGnuMap {
    /// Reads the header block; `true` when an extension block follows.
    pub fn header(&mut self, block: &Block) -> Result<bool, TarError> {
        self.extend(&block[386..482])?;
        Ok(block[482] != 0)
    }

    /// The size of the whole file, from the header block.
    pub fn real_size(block: &Block) -> Result<u64, TarError> {
        let size = number("real size", &block[483..495])?;
        u64::try_from(size).map_err(|_| TarError::Number { field: "real size" })
    }

    /// Reads an extension block; `true` when another follows.
    pub fn extension(&mut self, block: &Block) -> Result<bool, TarError> {
        self.extend(&block[..504])?;
        Ok(block[504] != 0)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        for pair in bytes.chunks_exact(24) {
            // A pair of zero bytes ends the list.
            self.ended |= pair.first() == Some(&0);
            if self.ended {
                return Ok(());
            }
            let (offset, length) = pair.split_at(12);
            let parse = |bytes| number("sparse extent", bytes).map(u64::try_from);
            let (Ok(offset), Ok(length)) = (parse(offset)?, parse(length)?) else {
                return Err(TarError::Number { field: "sparse extent" });
            };
            if self.extents.len() >= MAX_SPARSE_EXTENTS {
                return Err(too_many());
            }
            self.extents.push(Extent { offset, length });
        }
        Ok(())
    }
}

/// Form 1.0: decimal numbers, a line each, the count of extents first, padded to a whole block.
#[derive(Debug, Default)]
pub struct TextMap {
    numbers: Vec<u64>,
    wanted: Option<usize>,
    partial: Vec<u8>,
    read_bytes: u64,
}

impl TextMap {
    /// Reads one block; the extents once they are complete.
    pub fn block(&mut self, block: &Block) -> Result<Option<Vec<Extent>>, TarError> {
        self.read_bytes += BLOCK_BYTES as u64;
        if self.read_bytes > MAX_SPECIAL_BYTES {
            return Err(too_many());
        }
        for &byte in block {
            match byte {
                b'\n' => {
                    if let Some(map) = self.line()? {
                        return Ok(Some(map));
                    }
                }
                // Nineteen digits are what fits an i64.
                b'0'..=b'9' if self.partial.len() < 19 => self.partial.push(byte),
                _ => return Err(TarError::Sparse { reason: "the map is not of decimal numbers" }),
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<Option<Vec<Extent>>, TarError> {
        let text = std::str::from_utf8(&self.partial).unwrap_or_default();
        let bad = TarError::Sparse { reason: "the map is not of decimal numbers" };
        let number: u64 = text.parse().map_err(|_| bad)?;
        self.partial.clear();
        let Some(wanted) = self.wanted else {
            let count = usize::try_from(number).ok().filter(|&n| n <= MAX_SPARSE_EXTENTS);
            self.wanted = Some(count.ok_or_else(too_many)?);
            return Ok((number == 0).then(Vec::new));
        };
        self.numbers.push(number);
        Ok((self.numbers.len() == wanted * 2).then(|| pairs(&self.numbers)))
    }
}

/// Holds the extents against the file's size and the data that the entry brings: ordered, apart,
/// inside, and together as long as the data.
pub fn check(extents: &[Extent], file_bytes: u64, data_bytes: u64) -> Result<(), TarError> {
    if file_bytes > MAX_SPARSE_FILE_BYTES {
        let what = "size of a sparse file";
        return Err(TarError::TooLarge { what, got: file_bytes, limit: MAX_SPARSE_FILE_BYTES });
    }
    let (mut end, mut total) = (0_u64, 0_u64);
    for extent in extents {
        let next = extent.offset.checked_add(extent.length);
        match next.filter(|&next| extent.offset >= end && next <= file_bytes) {
            Some(next) => end = next,
            None => return Err(TarError::Sparse { reason: "an extent overlaps or lies outside" }),
        }
        // No overflow: the extents are apart, so their sum is at most the file's size.
        total += extent.length;
    }
    if total != data_bytes {
        return Err(TarError::Sparse { reason: "the extents are not as long as the data" });
    }
    Ok(())
}

fn too_many() -> TarError {
    TarError::Sparse { reason: "too many extents" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_map(text: &str) -> Result<Option<Vec<Extent>>, TarError> {
        let mut map = TextMap::default();
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        for block in bytes.as_chunks::<BLOCK_BYTES>().0 {
            if let Some(map) = map.block(block)? {
                return Ok(Some(map));
            }
        }
        Ok(None)
    }

    #[test]
    fn form_1_0_is_lines_of_numbers() {
        let want = [Extent { offset: 0, length: 5 }, Extent { offset: 4096, length: 1 }];
        assert_eq!(text_map("2\n0\n5\n4096\n1\n").unwrap().unwrap(), want);
        assert_eq!(text_map("0\n").unwrap().unwrap(), []);
        let long: String = (0..200).map(|n| format!("{}\n1\n", n * 100_000)).collect();
        assert_eq!(text_map(&format!("200\n{long}")).unwrap().unwrap().len(), 200);
        for bad in ["x\n", "\n", "1\n-1\n2\n", "99999999\n", "1\n99999999999999999999\n1\n"] {
            assert!(text_map(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn extents_are_ordered_apart_and_as_long_as_the_data() {
        let extents = |pairs: &[(u64, u64)]| -> Vec<Extent> {
            pairs.iter().map(|&(offset, length)| Extent { offset, length }).collect()
        };
        check(&extents(&[(0, 5), (10, 5), (20, 0)]), 20, 10).unwrap();
        check(&[], 1 << 40, 0).unwrap();
        for (pairs, size, data) in [
            (&[(0, 5), (4, 1)][..], 20, 6),
            (&[(10, 5), (0, 5)], 20, 10),
            (&[(18, 5)], 20, 5),
            (&[(u64::MAX, 2)], 20, 2),
            (&[(0, 5)], 20, 6),
            (&[(0, 5)], u64::MAX, 5),
        ] {
            assert!(check(&extents(pairs), size, data).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn pax_forms_are_told_apart_and_counted() {
        let sparse = |major, minor, block_count, map: &[u64]| PaxSparse {
            major,
            minor,
            block_count,
            map: map.to_vec(),
            ..PaxSparse::default()
        };
        let one = PaxForm::InHeader(vec![Extent { offset: 1, length: 2 }]);
        assert_eq!(pax_form(&sparse(None, None, Some(1), &[1, 2])).unwrap(), one);
        assert_eq!(pax_form(&sparse(Some(0), Some(1), Some(1), &[1, 2])).unwrap(), one);
        assert_eq!(pax_form(&sparse(Some(1), Some(0), None, &[])).unwrap(), PaxForm::BeforeData);
        assert_eq!(pax_form(&sparse(Some(2), Some(0), None, &[])).unwrap(), PaxForm::None);
        assert_eq!(pax_form(&sparse(None, None, None, &[])).unwrap(), PaxForm::None);
        assert!(pax_form(&sparse(Some(0), Some(0), Some(2), &[1, 2])).is_err());
    }
}
