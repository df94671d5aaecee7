//! The error of a system call, told the way strace tells it.

use std::fmt;

use nix::errno::Errno;

/// A system call that failed: which one, on what, and the errno.
///
/// Prints as `openat2(5, "etc/passwd"): No such file or directory (ENOENT)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysError {
    call: &'static str,
    args: String,
    errno: Errno,
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, SysError>;

impl SysError {
    /// The failure of `call` on `args` (already formatted, comma-separated) with `errno`.
    pub fn new(call: &'static str, args: impl Into<String>, errno: Errno) -> Self {
        Self { call, args: args.into(), errno }
    }

    /// As [`SysError::new`], with the calling thread's `errno`.
    pub fn last(call: &'static str, args: impl Into<String>) -> Self {
        Self::new(call, args, Errno::last())
    }

    /// From an I/O error of the standard library; one without an errno becomes `EIO`.
    pub fn from_io(call: &'static str, args: impl Into<String>, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Self::new(call, args, errno)
    }

    /// The errno, for code that decides by it.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The name of the call.
    pub fn call(&self) -> &'static str {
        self.call
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): {} ({:?})", self.call, self.args, self.errno.desc(), self.errno)
    }
}

impl std::error::Error for SysError {}

/// Puts call and arguments to a bare errno.
pub trait Context<T> {
    /// Names the call that failed; `args` is formatted only then.
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| SysError::new(call, args(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| SysError::from_io(call, args(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_call_arguments_and_errno() {
        let error = SysError::new("openat2", "5, \"etc/passwd\"", Errno::ENOENT);
        assert_eq!(
            error.to_string(),
            "openat2(5, \"etc/passwd\"): No such file or directory (ENOENT)"
        );
    }

    #[test]
    fn io_errors_keep_their_errno() {
        let result = std::fs::File::open("/nonexistent/file").call("open", String::new);
        assert_eq!(result.map_err(|e| e.errno()).err(), Some(Errno::ENOENT));
    }
}
