//! POSIX extended headers (pax(1), "pax Header Block"): `LENGTH KEY=VALUE\n` records. Pure.

use std::collections::BTreeMap;

use ctsys::rootdir::FileTime;

use super::TarError;

/// What extended headers say about an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pax {
    /// `path`.
    pub path: Option<Vec<u8>>,
    /// `linkpath`.
    pub link: Option<Vec<u8>>,
    /// `size`: bytes of data in the stream.
    pub size: Option<u64>,
    /// `uid`.
    pub uid: Option<i64>,
    /// `gid`.
    pub gid: Option<i64>,
    /// `mtime`.
    pub mtime: Option<FileTime>,
    /// `atime`.
    pub atime: Option<FileTime>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The sparse file's records.
    pub sparse: PaxSparse,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PaxSparse {
    /// The form's version.
    pub major: Option<u64>,
    /// The form's version.
    pub minor: Option<u64>,
    /// The true name; `path` has a made up one.
    pub name: Option<Vec<u8>>,
    /// The file's size: `size`, or `realsize` in form 1.0.
    pub real_size: Option<u64>,
    /// How many extents `map` has.
    pub block_count: Option<u64>,
    /// Offsets and lengths by turns, of `map` (0.1) or of single records (0.0).
    pub map: Vec<u64>,
}

/// Where star, and after it all engines, keep extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Parses the data of an extended header and puts what it says over what is there.
    pub fn extend(&mut self, mut data: &[u8]) -> Result<(), TarError> {
        let mut pairs = Vec::new();
        while !data.is_empty() {
            let Record { key, value, rest } = record(data)?;
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    // The records come by turns, an offset first.
                    if (pairs.len() % 2 == 0) != (key == b"GNU.sparse.offset") {
                        return Err(malformed("sparse offsets and lengths do not take turns"));
                    }
                    pairs.push(decimal(value)?);
                }
                _ => self.set(key, value)?,
            }
            data = rest;
        }
        if !pairs.is_empty() {
            self.sparse.map = pairs;
        }
        Ok(())
    }

    /// Of a global header only what describes many files alike. A size, a name or a sparse map for
    /// all that follows has no meaning, and engines disagree about it: Go's reader ignores it.
    pub fn keep_global(self) -> Self {
        Self {
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            atime: self.atime,
            xattrs: self.xattrs,
            ..Self::default()
        }
    }

    /// How long the extended attributes are, names and values: what grows from header to header.
    pub fn xattr_bytes(&self) -> u64 {
        self.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // An empty value takes back what a global header said.
        let present = !value.is_empty();
        match key {
            b"path" => self.path = present.then(|| name(value)).transpose()?,
            b"linkpath" => self.link = present.then(|| name(value)).transpose()?,
            b"size" => self.size = present.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = present.then(|| signed(value)).transpose()?,
            b"gid" => self.gid = present.then(|| signed(value)).transpose()?,
            b"mtime" => self.mtime = present.then(|| time(value)).transpose()?,
            b"atime" => self.atime = present.then(|| time(value)).transpose()?,
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = present.then(|| name(value)).transpose()?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.numblocks" => self.sparse.block_count = Some(decimal(value)?),
            b"GNU.sparse.map" if present => {
                self.sparse.map =
                    value.split(|&b| b == b',').map(decimal).collect::<Result<_, _>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

struct Record<'d> {
    key: &'d [u8],
    value: &'d [u8],
    rest: &'d [u8],
}

/// Splits the first record off.
fn record(data: &[u8]) -> Result<Record<'_>, TarError> {
    let space = data
        .iter()
        .take(20)
        .position(|&b| b == b' ')
        .ok_or_else(|| malformed("a record without a length"))?;
    let length = usize::try_from(decimal(&data[..space])?).unwrap_or(usize::MAX);
    let whole = data.get(..length).ok_or_else(|| malformed("a record longer than its header"))?;
    let text = whole
        .get(space + 1..)
        .and_then(|text| text.strip_suffix(b"\n"))
        .ok_or_else(|| malformed("a record whose length is wrong"))?;
    let equals = text
        .iter()
        .position(|&b| b == b'=')
        .filter(|&at| at > 0)
        .ok_or_else(|| malformed("a record without a key"))?;
    let (key, value) = (&text[..equals], &text[equals + 1..]);
    if key.contains(&0) {
        return Err(malformed("a key with a NUL byte"));
    }
    Ok(Record { key, value, rest: &data[length..] })
}

fn name(value: &[u8]) -> Result<Vec<u8>, TarError> {
    // A name that ends at different places for C and for other readers.
    if value.contains(&0) {
        return Err(malformed("a name with a NUL byte"));
    }
    Ok(value.to_vec())
}

fn decimal(value: &[u8]) -> Result<u64, TarError> {
    let digits = value.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(value).ok());
    let number = digits.flatten().and_then(|text| text.parse::<u64>().ok());
    // Go keeps sizes as int64.
    number.filter(|&n| i64::try_from(n).is_ok()).ok_or_else(|| malformed("a number that is none"))
}

fn signed(value: &[u8]) -> Result<i64, TarError> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|t| t.parse().ok()).ok_or_else(|| malformed("a number that is none"))
}

/// Seconds since 1970 with a fraction, which may have more digits than the kernel keeps.
fn time(value: &[u8]) -> Result<FileTime, TarError> {
    let bad = || malformed("a time that is none");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    if !whole.starts_with('-') || nanoseconds == 0 {
        return Ok(FileTime { seconds, nanoseconds });
    }
    // -1.25 is 0.75 after -2.
    let seconds = seconds.checked_sub(1).ok_or_else(bad)?;
    Ok(FileTime { seconds, nanoseconds: 1_000_000_000 - nanoseconds })
}

fn malformed(reason: &'static str) -> TarError {
    TarError::Pax { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &[u8])]) -> Result<Pax, TarError> {
        let mut data = Vec::new();
        for (key, value) in records {
            data.extend(record_of(key, value));
        }
        let mut pax = Pax::default();
        pax.extend(&data).map(|()| pax)
    }

    fn record_of(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn values_may_hold_any_byte() {
        let got = pax(&[("SCHILY.xattr.user.x", b"a\n=\0b"), ("path", b"\xff\n")]).unwrap();
        assert_eq!(got.xattrs, [(b"user.x".to_vec(), b"a\n=\0b".to_vec())].into());
        assert_eq!(got.path.as_deref(), Some(&b"\xff\n"[..]));
    }

    #[test]
    fn times_have_nanoseconds_also_before_1970() {
        for (text, seconds, nanoseconds) in [
            ("1", 1, 0),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("12.", 12, 0),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), FileTime { seconds, nanoseconds }, "{text}");
        }
        for text in ["", ".5", "1.x", "x", "99999999999999999999", "1.-5"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_record_wins_and_an_empty_one_takes_back() {
        let got = pax(&[("path", b"a"), ("path", b"b"), ("uid", b"7"), ("uid", b"")]).unwrap();
        assert_eq!((got.path.as_deref(), got.uid), (Some(&b"b"[..]), None));
    }

    #[test]
    fn malformed_records_are_refused() {
        for data in [
            &b"x"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"99 a=b\n",
            b"6 a=bc",
            b"5 =b\n",
            b"99999999999999999999999 a=b\n",
            b"0 \n",
            b"9 path=\0\n\n",
            b"11 size=-5\n",
            b"12 path=a\0b\n",
        ] {
            assert!(Pax::default().extend(data).is_err(), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn sparse_pairs_take_turns() {
        let (offset, length) = ("GNU.sparse.offset", "GNU.sparse.numbytes");
        let got = pax(&[(offset, b"0"), (length, b"5"), (offset, b"9"), (length, b"1")]).unwrap();
        assert_eq!(got.sparse.map, [0, 5, 9, 1]);
        assert!(pax(&[(offset, b"0"), (offset, b"5")]).is_err());
        assert_eq!(pax(&[("GNU.sparse.map", b"1,2")]).unwrap().sparse.map, [1, 2]);
        assert!(pax(&[("GNU.sparse.map", b"1,,2")]).is_err());
    }

    #[test]
    fn a_global_header_moves_no_name_and_no_size() {
        let global = pax(&[("path", b"a"), ("size", b"9"), ("mtime", b"3")]).unwrap().keep_global();
        let mtime = Some(FileTime { seconds: 3, nanoseconds: 0 });
        assert_eq!(global, Pax { mtime, ..Pax::default() });
    }
}
