//! A part of an open file, as a stream. It is opened before anything is read, because the threads
//! that read may not open files any more.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A blob that is a file or lies inside of one. Several may read from the same file at once.
#[derive(Debug)]
pub struct LocalBlob {
    file: Arc<File>,
    position: u64,
    left_bytes: u64,
}

impl LocalBlob {
    /// `length` bytes from `start` on, which have to be there.
    pub fn part(file: Arc<File>, start: u64, length: u64) -> Self {
        Self { file, position: start, left_bytes: length }
    }

    /// What is still to be read, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.left_bytes
    }
}

impl Read for LocalBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(buffer.len());
        let (buffer, _) = buffer.split_at_mut(most);
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.file.read_at(buffer, self.position)?;
        if length == 0 {
            let why = "the file became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.position += length as u64;
        self.left_bytes -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_and_no_more_and_one_that_shrank_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let file = Arc::new(file);
        let mut text = String::new();
        LocalBlob::part(Arc::clone(&file), 2, 5).read_to_string(&mut text).unwrap();
        assert_eq!(text, "23456");
        let error = LocalBlob::part(file, 8, 5).read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
