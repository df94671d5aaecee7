//! One 512-byte header block: checksum, format, numbers. Pure.
//!
//! Where implementations of tar disagree about a malformed header, Go's archive/tar decides: all
//! engines use it, and two views of one stream are how a scanner is shown another file than the
//! one that is unpacked (CVE-2025-62518).

use super::TarError;

/// The unit of a tar stream.
pub const BLOCK_BYTES: usize = 512;

/// A block of a tar stream.
pub type Block = [u8; BLOCK_BYTES];

/// The dialect of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Before POSIX: no magic.
    V7,
    /// POSIX, also with extended headers.
    Ustar,
    /// Schily's star: a shorter prefix, and times behind it.
    Star,
    /// GNU tar's own.
    Gnu,
}

/// The fields of a header as they stand there, numbers decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawHeader {
    /// The dialect.
    pub format: Format,
    /// The name, with its prefix.
    pub name: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// What the entry is, as a character.
    pub type_flag: u8,
    /// Permission bits, and in some dialects the type.
    pub mode: i64,
    /// The owner.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// Bytes of data behind the header.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Of a device.
    pub major: i64,
    /// Of a device.
    pub minor: i64,
}

/// Parses a header; `None` for a block of zeros.
pub fn parse(block: &Block) -> Result<Option<RawHeader>, TarError> {
    if block.iter().all(|&b| b == 0) {
        return Ok(None);
    }
    let header = tar::Header::from_byte_slice(block);
    if !checksum_matches(block, &header.as_old().cksum) {
        return Err(TarError::Checksum);
    }
    let format = format_of(block);
    let old = header.as_old();
    let (mut major, mut minor) = (0, 0);
    let mut name = c_string(&old.name).to_vec();
    if format != Format::V7 {
        let ustar = ustar_view(header);
        major = number("device major", &ustar.0)?;
        minor = number("device minor", &ustar.1)?;
        let prefix = prefix(block, format);
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    let size = number("size", &old.size)?;
    Ok(Some(RawHeader {
        format,
        name,
        link: c_string(&old.linkname).to_vec(),
        type_flag: old.linkflag[0],
        mode: number("mode", &old.mode)?,
        uid: number("uid", &old.uid)?,
        gid: number("gid", &old.gid)?,
        size: u64::try_from(size).map_err(|_| TarError::Number { field: "size" })?,
        mtime: number("mtime", &old.mtime)?,
        major,
        minor,
    }))
}

/// Device numbers stand at the same place in all formats that have them.
fn ustar_view(header: &tar::Header) -> ([u8; 8], [u8; 8]) {
    let block = header.as_bytes();
    let mut fields = ([0; 8], [0; 8]);
    fields.0.copy_from_slice(&block[329..337]);
    fields.1.copy_from_slice(&block[337..345]);
    fields
}

fn prefix(block: &Block, format: Format) -> &[u8] {
    match format {
        Format::Ustar => c_string(&block[345..500]),
        Format::Star => c_string(&block[345..476]),
        Format::V7 | Format::Gnu => b"",
    }
}

fn format_of(block: &Block) -> Format {
    let (magic, version, trailer) = (&block[257..263], &block[263..265], &block[508..512]);
    match (magic, version, trailer) {
        (b"ustar\0", _, b"tar\0") => Format::Star,
        (b"ustar\0", _, _) => Format::Ustar,
        (b"ustar ", b" \0", _) => Format::Gnu,
        _ => Format::V7,
    }
}

/// The sum over all bytes, the checksum's own counted as spaces. Some old implementations summed
/// signed bytes.
fn checksum_matches(block: &Block, field: &[u8; 8]) -> bool {
    let Some(want) = octal(field) else { return false };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    want == unsigned || want == signed
}

/// A numeric field: octal text, or base-256 (two's complement, the first bit set as its mark).
pub fn number(field: &'static str, bytes: &[u8]) -> Result<i64, TarError> {
    let value = match bytes.first() {
        Some(first) if first & 0x80 != 0 => base_256(bytes),
        _ => octal(bytes),
    };
    value.ok_or(TarError::Number { field })
}

fn base_256(bytes: &[u8]) -> Option<i64> {
    // The mark's neighbour is the sign.
    let negative = bytes.first()? & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (at, &byte) in bytes.iter().enumerate() {
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => byte,
        };
        value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
    }
    Some(value)
}

fn octal(bytes: &[u8]) -> Option<i64> {
    let is_padding = |b: &u8| matches!(b, b' ' | 0);
    let Some(start) = bytes.iter().position(|b| !is_padding(b)) else { return Some(0) };
    let digits = c_string(bytes.get(start..)?);
    let end = digits.iter().rposition(|b| !is_padding(b))? + 1;
    digits.get(..end)?.iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// The bytes before the first NUL.
pub fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(change: impl FnOnce(&mut tar::Header)) -> Block {
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_size(0);
        change(&mut header);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn a_block_of_zeros_is_no_header() {
        assert_eq!(parse(&[0; BLOCK_BYTES]).unwrap(), None);
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut bytes = block(|_| {});
        bytes[0] = b'b';
        assert!(matches!(parse(&bytes), Err(TarError::Checksum)));
    }

    #[test]
    fn the_prefix_is_put_before_the_name_but_not_in_gnu_headers() {
        let long = format!("{}/name", "d".repeat(120));
        let header = parse(&block(|h| h.set_path(&long).unwrap())).unwrap().unwrap();
        assert_eq!(header.name, long.as_bytes());
        let mut gnu = tar::Header::new_gnu();
        gnu.set_path("a").unwrap();
        gnu.set_size(0);
        gnu.as_gnu_mut().unwrap().atime = *b"00000000001\0";
        gnu.set_cksum();
        let header = parse(gnu.as_bytes()).unwrap().unwrap();
        assert_eq!((header.format, header.name.as_slice()), (Format::Gnu, &b"a"[..]));
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (bytes, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b" 644  \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"00000009", None),
            (b"-0000001", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number("n", bytes).ok(), want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_negative_size_is_refused() {
        let bytes = block(|h| h.as_ustar_mut().unwrap().size = [0xff; 12]);
        assert!(matches!(parse(&bytes), Err(TarError::Number { field: "size" })));
    }
}
