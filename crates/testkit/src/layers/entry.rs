//! One tar entry, encoded by hand so that a test can also make what no tar program would.

/// The type flag of a PAX header for the next entry.
pub const PAX_HEADER: u8 = b'x';
/// The type flag of a PAX header for all entries that follow.
pub const PAX_GLOBAL: u8 = b'g';
/// The type flag of GNU tar's long name.
pub const GNU_LONG_NAME: u8 = b'L';
/// The type flag of GNU tar's long link name.
pub const GNU_LONG_LINK: u8 = b'K';

/// How a name of more than 100 bytes, or one that a header cannot hold, is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongNames {
    /// PAX `path` and `linkpath`.
    Pax,
    /// GNU `L` and `K` entries.
    Gnu,
    /// Cut off to what the header holds.
    Cut,
}

/// A tar entry. All fields can be set; what the header's fields cannot hold goes into PAX records,
/// or into base-256 numbers where `base256` asks for it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name, as it is to stand in the archive.
    pub path: Vec<u8>,
    /// `0` file, `1` hard link, `2` symlink, `3` char, `4` block, `5` directory, `6` FIFO, or any byte.
    pub typeflag: u8,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970, may be negative.
    pub mtime: i64,
    /// Nanoseconds, added to `mtime`.
    pub mtime_nanos: u32,
    /// Target of a symlink or hard link.
    pub link: Vec<u8>,
    /// The content.
    pub data: Vec<u8>,
    /// The size in the header, when it is not to be `data`'s length.
    pub size: Option<u64>,
    /// Device numbers.
    pub device: (u32, u32),
    /// PAX records, in order, before those that are added because a field needs one.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// How a long name is written.
    pub long_names: LongNames,
    /// Numbers that do not fit as base-256, not as PAX records.
    pub base256: bool,
    /// `ustar\0` and `00`, or `ustar ` and ` \0` (GNU), or zeros (V7).
    pub magic: [u8; 8],
    /// A wrong checksum.
    pub spoil_checksum: bool,
}

/// The time that entries have unless told otherwise: 2023-11-14 22:13:20 UTC.
pub const DEFAULT_MTIME: i64 = 1_700_000_000;

/// The `magic` of POSIX ustar.
pub const USTAR: [u8; 8] = *b"ustar\x0000";
/// The `magic` of GNU tar.
pub const GNU: [u8; 8] = *b"ustar  \0";
/// The `magic` of V7 tar, which has none.
pub const V7: [u8; 8] = [0; 8];

const BLOCK: usize = 512;

impl Entry {
    /// An entry of that type with mode 0644, owner 0:0 and the default time.
    pub fn new(typeflag: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            typeflag,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: DEFAULT_MTIME,
            mtime_nanos: 0,
            link: Vec::new(),
            data: Vec::new(),
            size: None,
            device: (0, 0),
            pax: Vec::new(),
            long_names: LongNames::Pax,
            base256: false,
            magic: USTAR,
            spoil_checksum: false,
        }
    }

    /// Appends the entry, with the extension headers it needs, to an archive.
    pub fn write(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let mut header = Self::new(PAX_HEADER, "PaxHeaders/entry");
            header.data = pax_data(&records);
            header.write_block(out);
        }
        if self.long_names == LongNames::Gnu {
            for (flag, name) in [(GNU_LONG_LINK, &self.link), (GNU_LONG_NAME, &self.path)] {
                if name.len() > 100 {
                    let mut header = Self::new(flag, "././@LongLink");
                    header.magic = GNU;
                    header.data = [name.as_slice(), b"\0"].concat();
                    header.write_block(out);
                }
            }
        }
        self.write_block(out);
    }

    /// The PAX records asked for, then those that the fields need.
    fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = self.pax.clone();
        let mut add = |key: &str, value: Vec<u8>| {
            if !records.iter().any(|(k, _)| k == key.as_bytes()) {
                records.push((key.into(), value));
            }
        };
        if self.long_names == LongNames::Pax {
            if self.path.len() > 100 {
                add("path", self.path.clone());
            }
            if self.link.len() > 100 {
                add("linkpath", self.link.clone());
            }
        }
        if self.mtime_nanos != 0 || (!self.base256 && !fits(self.mtime, 12)) {
            add("mtime", pax_time(self.mtime, self.mtime_nanos).into());
        }
        let ids = [("uid", self.uid, 8), ("gid", self.gid, 8), ("size", self.length(), 12)];
        for (key, value, width) in ids {
            if !self.base256 && !fits(i64::try_from(value).unwrap_or(-1), width) {
                add(key, value.to_string().into());
            }
        }
        records
    }

    fn length(&self) -> u64 {
        self.size.unwrap_or(self.data.len() as u64)
    }

    /// The header, the data and its padding.
    fn write_block(&self, out: &mut Vec<u8>) {
        let mut block = [0_u8; BLOCK];
        put_bytes(&mut block[0..100], &self.path);
        put_number(&mut block[100..108], i128::from(self.mode), self.base256);
        put_number(&mut block[108..116], i128::from(self.uid), self.base256);
        put_number(&mut block[116..124], i128::from(self.gid), self.base256);
        put_number(&mut block[124..136], i128::from(self.length()), self.base256);
        put_number(&mut block[136..148], i128::from(self.mtime), self.base256);
        block[156] = self.typeflag;
        put_bytes(&mut block[157..257], &self.link);
        block[257..265].copy_from_slice(&self.magic);
        if self.magic != V7 {
            put_number(&mut block[329..337], i128::from(self.device.0), self.base256);
            put_number(&mut block[337..345], i128::from(self.device.1), self.base256);
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        let sum = sum + u32::from(self.spoil_checksum);
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
}

/// PAX records as the data of an `x` or `g` entry: `LENGTH KEY=VALUE\n`.
pub fn pax_data(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        out.extend_from_slice(format!("{len} ").as_bytes());
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

/// `-1.25` for 1.25 seconds before 1970: the sign is that of the whole.
fn pax_time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    let (seconds, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
    match nanos {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{nanos:09}"),
    }
}

/// Whether a field of `width` bytes, the last of them zero, holds the value in octal.
fn fits(value: i64, width: u32) -> bool {
    value >= 0 && value < 1_i64 << (3 * (width - 1))
}

fn put_bytes(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

/// Octal where it fits, else base-256 where wanted, else zero (a PAX record has the value).
fn put_number(field: &mut [u8], value: i128, base256: bool) {
    let digits = field.len() - 1;
    if (0..1_i128 << (3 * digits)).contains(&value) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else if base256 {
        let bytes = value.to_be_bytes();
        let start = bytes.len() - field.len();
        field.copy_from_slice(&bytes[start..]);
        field[0] |= 0x80;
    } else {
        field[..digits].fill(b'0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        let long = pax_data(&[(b"k".to_vec(), vec![b'v'; 95])]);
        assert_eq!(long.len(), 102);
        assert!(long.starts_with(b"102 k=v"), "{long:?}");
        assert_eq!(pax_data(&[(b"a".to_vec(), b"b".to_vec())]), b"6 a=b\n");
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(pax_time(-2, 750_000_000), "-1.250000000");
        assert_eq!(pax_time(-2, 0), "-2");
        assert_eq!(pax_time(3, 1), "3.000000001");
    }
}
