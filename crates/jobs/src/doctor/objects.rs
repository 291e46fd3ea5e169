//! The objects below the table's prefix: those that it needs, and those that nobody knows.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_core::{
    Result,
    ids::{FileName, TransactionNumber},
    state::{
        invariants::{Invariant, ObjectFact, Violation, missing, orphans},
        log::bodies_prefix,
        snapshot::snapshots_prefix,
    },
    time::Timestamp,
};
use futures::TryStreamExt;
use object_store::{ObjectMeta, path::Path};

use super::{Examination, Part};

fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_millis(meta.last_modified.timestamp_millis())
}

impl Examination<'_> {
    pub(super) async fn objects(&self) -> Result<Part> {
        let (services, table) = (self.services, &self.table.id);
        let mut part = Part::default();
        let Some(before) = self.state().await? else {
            return Ok(part);
        };
        let mut files = BTreeMap::new();
        let mut others = Vec::new();
        let mut listed = services.data.list(Some(&Path::from(table.as_str())));
        while let Some(meta) = listed.try_next().await? {
            match FileName::from_object_path(table, &meta.location) {
                Some(name) => {
                    let fact = ObjectFact {
                        bytes: meta.size,
                        modified: modified(&meta),
                    };
                    files.insert(name, fact);
                }
                None => others.push(meta),
            }
        }
        let Some(state) = self.state().await? else {
            return Ok(part);
        };
        // Whoever sweeps has a turn once a period.
        let age = services.settings.orphan_age() + services.settings.gc_period();
        let now = services.ports.clock.now();
        part.count("live files", state.file_count());
        part.count("unreferenced files", state.garbage().count());
        part.count("objects", files.len() + others.len());
        part.findings.extend(missing(&[&before], &files, &state));
        let orphans = orphans(&[&state], &files, now, age);
        part.count(
            "objects in flight",
            usize::try_from(orphans.young).unwrap_or_default(),
        );
        part.findings.extend(orphans.old);
        let used: BTreeSet<Path> = self.states.object_paths(table).await?.into_iter().collect();
        for meta in others {
            if used.contains(&meta.location) || self.may_be_used(&meta, state.transaction()) {
                continue;
            }
            if now.since(modified(&meta)) < age {
                part.count("objects in flight", 1);
                continue;
            }
            part.findings.push(self.unknown(&meta));
        }
        Ok(part)
    }

    /// Whether an entry may still name the object: it is numbered beyond the end of the log.
    fn may_be_used(&self, meta: &ObjectMeta, last: TransactionNumber) -> bool {
        let table = &self.table.id;
        let numbered = [bodies_prefix(table), snapshots_prefix(table)];
        let number = meta
            .location
            .filename()
            .and_then(|name| name.split('-').next()?.parse().ok());
        numbered.iter().any(|prefix| meta.location.prefix_matches(prefix))
            && number.is_some_and(|number| TransactionNumber(number) > last)
    }

    fn unknown(&self, meta: &ObjectMeta) -> Violation {
        let table = &self.table.id;
        let ours = [
            bodies_prefix(table),
            snapshots_prefix(table),
            Path::from(format!("{table}/commits")),
        ];
        let swept = ours.iter().any(|prefix| meta.location.prefix_matches(prefix));
        let (found, remedy) = if swept {
            (
                "no log entry, snapshot or commit uses this object",
                "let garbage collection run (`dormouse gc`): it sweeps what nothing uses",
            )
        } else {
            (
                "it is below the table's prefix, and Dormouse writes no objects of this name",
                "remove it by hand; garbage collection leaves it alone",
            )
        };
        let found = format!(
            "{found}; it has {} bytes, written at {}",
            meta.size,
            modified(meta)
        );
        Violation::new(
            Invariant::Orphans,
            format!("object {}", meta.location),
            found,
            remedy,
        )
    }
}
