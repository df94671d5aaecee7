//! Values of options: the error that all their parsers share, and sizes.

/// A value that an option cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {option} {value:?}: {problem}")]
pub struct BadValue {
    /// What the value was for.
    pub option: &'static str,
    /// As typed.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// The remedy.
    pub hint: String,
}

impl BadValue {
    /// From its parts, in the order in which they are read.
    pub fn new(
        option: &'static str,
        value: &str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { option, value: value.into(), problem: problem.into(), hint: hint.into() }
    }
}

/// A number of bytes as docker takes it: digits, then one of b, k, m, g, t (powers of 1024), with or
/// without `b` or `ib` after it. `None` for anything else, and for what 64 bits do not hold.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// File mode bits in octal, at most `limit`.
pub fn octal(text: &str, limit: u32) -> Option<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, want) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("64m", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("16777215t", Some(16_777_215 << 40)),
            ("16777216t", None),
            ("99999999999999999999", None),
            ("", None),
            ("m", None),
            ("-1", None),
            ("+1", None),
            ("1.5g", None),
            ("1 m", None),
            ("1ü", None),
        ] {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("1777", 0o7777), Some(0o1777));
        assert_eq!(octal("0022", 0o777), Some(0o22));
        for text in ["", "8", "+7", "0o7", "10000"] {
            assert_eq!(octal(text, 0o7777), None, "{text:?}");
        }
    }
}
