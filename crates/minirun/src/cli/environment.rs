//! Variables as they are typed, and as a file has them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::prepare::{Error, Result};

/// A file of variables larger than this is none: the kernel takes some megabytes of them in all, of
/// 128 KiB each at most (execve(2)).
const MAX_ENV_FILE_BYTES: u64 = 4 << 20;

/// The options that set variables, of a container as of one more command in it.
#[derive(Debug, Args)]
pub struct EnvArgs {
    /// Set an environment variable; without a value, to the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set the variables that a file has, one a line; those of -e win
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

impl EnvArgs {
    /// The variables to set, as `NAME=value`; `lookup` is the caller's environment.
    pub fn read(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(parse_file(&read_file(file)?, file, &lookup)?);
        }
        env.extend(environment(&self.env, lookup)?);
        Ok(env)
    }
}

/// As docker has it: a name alone takes the caller's value, and nothing when there is none.
fn environment(typed: &[String], lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut env = Vec::with_capacity(typed.len());
    for entry in typed {
        if entry.split('=').next() == Some("") {
            return Err(Error::Variable(entry.clone()));
        }
        env.extend(variable(entry, &lookup));
    }
    Ok(env)
}

fn variable(entry: &str, lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    if entry.contains('=') {
        return Some(entry.to_owned());
    }
    lookup(entry).map(|value| format!("{entry}={value}"))
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let failed = |cause| Error::EnvFile { path: path.into(), cause };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_ENV_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_ENV_FILE_BYTES {
        let reason = format!("larger than {MAX_ENV_FILE_BYTES} bytes");
        return Err(failed(std::io::Error::other(reason)));
    }
    Ok(bytes)
}

/// Docker's format, which podman has too: a line is a variable, as it stands, without quotes or
/// escapes; white space before it goes; lines that are empty or begin with `#` are none.
fn parse_file(
    bytes: &[u8],
    path: &Path,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    // What Windows' editors put in front of text.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut env = Vec::new();
    for (line, number) in bytes.split(|&b| b == b'\n').zip(1_usize..) {
        let wrong = |what| Error::EnvLine { path: path.into(), line: number, what };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8"))?.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split('=').next() {
            Some("") | None => return Err(wrong("it has no name")),
            Some(name) if name.contains([' ', '\t']) => {
                return Err(wrong("its name has white space"));
            }
            Some(_) => env.extend(variable(line, &lookup)),
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let lookup = |name: &str| (name == "LANG").then(|| "C".to_owned());
        parse_file(text.as_ref(), Path::new("f"), lookup)
    }

    #[test]
    fn a_file_of_variables_is_read_as_docker_reads_it() {
        let text =
            "\u{feff}A=1\n# B=2\n\n  \t C = 'x y' # no comment \r\nLANG\nNONE\nD=\nE==\n #\nF=\"";
        let want = ["A=1", "D=", "E==", "F=\"", "LANG=C"];
        assert!(parse(text).is_err(), "a name does not end in a space");
        let mut env = parse(text.replace("C =", "C=")).unwrap();
        assert_eq!(env.remove(1), "C= 'x y' # no comment ");
        env.sort();
        assert_eq!(env, want);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (text, line) in [("A=1\n=2\n", 2), ("A B=1", 1), ("\n\nA B\n", 3)] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, Error::EnvLine { line: l, .. } if l == line), "{error}");
        }
        assert!(parse(b"A=\xff").is_err());
        assert_eq!(parse("").unwrap(), Vec::<String>::new());
    }
}
