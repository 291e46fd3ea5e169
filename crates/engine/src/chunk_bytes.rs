//! The bytes of a column chunk in memory: pages stay where they were compressed.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use bytes::{Buf, Bytes};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};

/// The bytes of a chunk, in pieces.
#[derive(Debug, Default)]
pub(crate) struct ChunkBytes {
    pieces: Vec<Bytes>,
    lent: Bytes,
}

impl ChunkBytes {
    /// Has what is written next, or a part of it, kept as it is.
    pub(crate) fn lend(&mut self, bytes: Bytes) {
        self.lent = bytes;
    }
}

impl Write for ChunkBytes {
    /// Keeps what was lent as it is, and a copy of anything else.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lent = self.lent.as_ptr_range();
        let is_lent = lent.contains(&bytes.as_ptr()) && bytes.as_ptr_range().end <= lent.end;
        self.pieces.push(match is_lent {
            true => self.lent.slice_ref(bytes),
            false => Bytes::copy_from_slice(bytes),
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Length for ChunkBytes {
    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl ChunkReader for ChunkBytes {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> Result<ChunkRead, ParquetError> {
        let mut read = ChunkRead(self.pieces.clone().into());
        read.skip(start);
        Ok(read)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Reads pieces one after the other.
pub(crate) struct ChunkRead(VecDeque<Bytes>);

impl ChunkRead {
    fn skip(&mut self, mut count: u64) {
        while let Some(first) = self.0.front_mut() {
            let some = count.min(first.len() as u64);
            first.advance(some as usize);
            count -= some;
            if !first.is_empty() {
                break;
            }
            self.0.pop_front();
        }
    }
}

impl Read for ChunkRead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.0.front_mut() else {
            return Ok(0);
        };
        let count = into.len().min(first.len());
        first.copy_to_slice(&mut into[..count]);
        if first.is_empty() {
            self.0.pop_front();
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> ChunkBytes {
        let mut bytes = ChunkBytes::default();
        bytes.write_all(b"header").unwrap();
        let page = Bytes::from_static(b"a page");
        bytes.lend(page.clone());
        bytes.write_all(b"header").unwrap();
        bytes.write_all(&page[..2]).unwrap();
        bytes.write_all(&page[2..]).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        assert_eq!(bytes.len(), 18);
        for start in 0..18 {
            let mut read = Vec::new();
            bytes.get_read(start).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, b"headerheadera page"[start as usize..]);
        }
        assert_eq!(bytes.get_bytes(4, 4).unwrap(), &b"erhe"[..]);
        assert!(bytes.get_bytes(17, 2).is_err());
    }

    #[test]
    fn what_is_lent_is_not_copied() {
        let bytes = written();
        let [.., front, back] = &bytes.pieces[..] else {
            panic!()
        };
        assert_eq!(bytes.lent.as_ptr(), front.as_ptr());
        assert_eq!(front.as_ptr_range().end, back.as_ptr());
    }
}
