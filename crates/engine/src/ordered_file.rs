//! One file whose pieces are made on several threads at once and appended in order.
//!
//! A piece is some row groups in a row. Threads take the pieces in order and hand over what they have encoded; a row
//! group whose piece is due is appended by whichever thread finds it so, while the others go on. What is encoded
//! too early waits in memory, so nobody begins a piece that is too far ahead.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dormouse_core::{Error, Result};

use crate::{
    cancel::Cancel,
    parquet_file::{EncodedRowGroup, ParquetFile},
};

/// How long a thread sleeps before it looks whether its call was cancelled.
const NAP: Duration = Duration::from_millis(100);

/// Appends something to a file.
pub(crate) type Append<'a> = Box<dyn FnOnce(&mut ParquetFile) -> Result<()> + Send + 'a>;

/// A file of pieces.
pub(crate) struct OrderedFile<'a> {
    state: Mutex<State<'a>>,
    /// Told when a piece becomes due, and when the file has failed.
    moved: Condvar,
    /// How many pieces that somebody makes may be begun at a time.
    ahead: usize,
    cancel: &'a Cancel,
}

struct State<'a> {
    /// None while a thread appends.
    file: Option<ParquetFile>,
    pieces: Vec<Piece<'a>>,
    /// The piece that is due.
    due: usize,
    has_failed: bool,
}

#[derive(Default)]
struct Piece<'a> {
    waiting: VecDeque<Append<'a>>,
    is_complete: bool,
    /// Whether somebody makes it.
    is_made: bool,
}

/// A piece that somebody makes. Dropped before it is finished, it fails the file.
pub(crate) struct OpenPiece<'f, 'a> {
    file: &'f OrderedFile<'a>,
    piece: usize,
    is_finished: bool,
}

impl<'a> OrderedFile<'a> {
    /// `pieces` has what is appended for a piece that nobody has to make, and none for one that somebody will.
    pub(crate) fn new(
        file: ParquetFile,
        pieces: Vec<Option<Append<'a>>>,
        ahead: usize,
        cancel: &'a Cancel,
    ) -> Self {
        let pieces = pieces
            .into_iter()
            .map(|append| Piece {
                is_complete: append.is_some(),
                is_made: append.is_none(),
                waiting: append.into_iter().collect(),
            })
            .collect();
        let state = State {
            file: Some(file),
            pieces,
            due: 0,
            has_failed: false,
        };
        Self {
            state: Mutex::new(state),
            moved: Condvar::new(),
            ahead,
            cancel,
        }
    }

    /// Begins a piece, as soon as it is not too far ahead; none when another piece has failed.
    pub(crate) fn begin(&self, piece: usize) -> Result<Option<OpenPiece<'_, 'a>>> {
        let mut state = self.lock();
        while state.made_before(piece) >= self.ahead {
            self.cancel.check()?;
            if state.has_failed {
                return Ok(None);
            }
            (state, _) = self
                .moved
                .wait_timeout(state, NAP)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Some(OpenPiece {
            file: self,
            piece,
            is_finished: false,
        }))
    }

    /// Appends all that is due.
    pub(crate) fn advance(&self) -> Result<()> {
        loop {
            let mut state = self.lock();
            if state.has_failed {
                return Ok(());
            }
            let Some(mut file) = state.file.take() else {
                return Ok(());
            };
            let due = state.due;
            let next = state.next();
            if state.due > due {
                self.moved.notify_all();
            }
            let Some(append) = next else {
                state.file = Some(file);
                return Ok(());
            };
            drop(state);
            let appended = self.cancel.check().and_then(|()| append(&mut file));
            self.lock().file = Some(file);
            if let Err(error) = appended {
                self.fail();
                return Err(error);
            }
        }
    }

    /// The file; an error when a piece is not in it.
    pub(crate) fn into_file(self) -> Result<ParquetFile> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file = state
            .file
            .ok_or_else(|| Error::internal("a thread has taken an unfinished file along"))?;
        if state.due < state.pieces.len() {
            file.abort();
            return Err(Error::internal("pieces of a file were not written"));
        }
        Ok(file)
    }

    /// Gives up.
    pub(crate) fn abort(self) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = state.file {
            file.abort();
        }
    }

    fn fail(&self) {
        self.lock().has_failed = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> State<'a> {
    /// How many pieces that somebody makes are due before a piece, and not in the file.
    fn made_before(&self, piece: usize) -> usize {
        let before = self.pieces[..piece].iter().skip(self.due);
        before.filter(|piece| piece.is_made).count()
    }

    /// What to append next; none when it is still to be made.
    fn next(&mut self) -> Option<Append<'a>> {
        loop {
            let piece = self.pieces.get_mut(self.due)?;
            if let Some(append) = piece.waiting.pop_front() {
                return Some(append);
            }
            if !piece.is_complete {
                return None;
            }
            self.due += 1;
        }
    }
}

impl OpenPiece<'_, '_> {
    /// Hands over the next row group of the piece.
    pub(crate) fn append(&self, row_group: EncodedRowGroup) -> Result<()> {
        self.file.lock().pieces[self.piece]
            .waiting
            .push_back(Box::new(move |file| file.append(row_group)));
        self.file.advance()
    }

    /// Whether another piece has failed, so that this one is of no use.
    pub(crate) fn is_futile(&self) -> bool {
        self.file.lock().has_failed
    }

    /// Says that the piece has no more row groups.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.is_finished = true;
        self.file.lock().pieces[self.piece].is_complete = true;
        self.file.advance()
    }
}

impl Drop for OpenPiece<'_, '_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.file.fail();
        }
    }
}
