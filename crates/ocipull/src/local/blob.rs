//! A part of an open file, as a stream. It is opened before anything is read, because the threads
//! that read may not open files any more.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// A blob that is a file, lies inside of one, or is in memory. Several may read from the same file
/// at once.
#[derive(Debug)]
pub struct LocalBlob {
    content: Content,
    left_bytes: u64,
}

#[derive(Debug)]
enum Content {
    File { file: Arc<File>, position: u64 },
    Memory(Bytes),
}

impl LocalBlob {
    /// `length` bytes from `start` on, which have to be there.
    pub fn part(file: Arc<File>, start: u64, length: u64) -> Self {
        Self { content: Content::File { file, position: start }, left_bytes: length }
    }

    /// These bytes.
    pub fn memory(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { left_bytes: bytes.len() as u64, content: Content::Memory(bytes) }
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
        let length = match &mut self.content {
            Content::Memory(bytes) => bytes.reader().read(buffer)?,
            Content::File { file, position } => {
                let length = file.read_at(buffer, *position)?;
                *position += length as u64;
                length
            }
        };
        if length == 0 {
            let why = "the file became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
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
        let mut memory = LocalBlob::memory(&b"in memory"[..]);
        assert_eq!((memory.size_bytes(), memory.read(&mut [0; 3]).unwrap()), (9, 3));
        assert_eq!(std::io::read_to_string(memory).unwrap(), "memory");
        let error = LocalBlob::part(file, 8, 5).read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
