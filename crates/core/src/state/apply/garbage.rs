//! Unreferenced files are marked, deleted and forgotten, and history is cut.

use super::{
    super::table_state::{Garbage, Pin, TableState},
    Effect, Refusal,
};
use crate::ids::{FileName, TransactionNumber};

impl TableState {
    pub(super) fn mark_garbage(&mut self, files: &[FileName]) -> Effect {
        let mut changed = false;
        for name in files {
            if self.files.contains_key(name) || self.tombstones.contains_key(name) {
                continue;
            }
            let unknown = Garbage {
                bytes: 0,
                added: None,
                removed: self.transaction,
                removed_at: self.at,
                marked: false,
            };
            let garbage = self.garbage.get(name).cloned().unwrap_or(unknown);
            if garbage.marked || self.is_pinned(&garbage, self.at) {
                continue;
            }
            if garbage.added.is_some() {
                self.retained_from = self.retained_from.max(garbage.removed);
            }
            self.garbage.insert(
                name.clone(),
                Garbage {
                    marked: true,
                    ..garbage
                },
            );
            changed = true;
        }
        if changed { Effect::Changed } else { Effect::Same }
    }

    pub(super) fn forget_files(&mut self, files: &[FileName]) -> Result<Effect, Refusal> {
        let unmarked = |name: &&FileName| {
            self.files.contains_key(*name) || self.garbage.get(*name).is_some_and(|garbage| !garbage.marked)
        };
        if let Some(name) = files.iter().find(unmarked) {
            return Err(Refusal::conflict(format!(
                "file {name} is not marked for deletion"
            )));
        }
        let mut changed = false;
        for name in files {
            if self.garbage.remove(name).is_some() {
                self.tombstones.insert(name.clone(), self.at);
                self.tombstones_by_age.insert((self.at, name.clone()));
                changed = true;
            }
        }
        Ok(if changed { Effect::Changed } else { Effect::Same })
    }

    pub(super) fn truncate(&mut self, floor: TransactionNumber) -> Result<Effect, Refusal> {
        if floor > self.transaction {
            return Err(Refusal::invalid(format!("floor {floor} is beyond the log's end")));
        }
        if floor <= self.floor {
            return Ok(Effect::Same);
        }
        let needs_more = |pin: &Pin| pin.is_live(self.at) && pin.transaction.next() < floor;
        if let Some((id, pin)) = self.pins.iter().find(|(_, pin)| needs_more(pin)) {
            return Err(Refusal::conflict(format!(
                "pin {id} needs the log from transaction {}",
                pin.transaction
            )));
        }
        self.floor = floor;
        Ok(Effect::Changed)
    }
}
