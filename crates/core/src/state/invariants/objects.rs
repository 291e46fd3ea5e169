//! Data objects against the states that name them.

use std::{collections::BTreeMap, time::Duration};

use super::{super::TableState, Invariant, Violation};
use crate::{ids::FileName, time::Timestamp};

/// What a listing says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectFact {
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified: Timestamp,
}

/// That the objects which some states need are there, with their sizes: of live files, and of garbage that is not
/// marked, as past states and pins need it.
///
/// The states are those before the listing; what `newest`, read after it, knows as marked or deleted need not be
/// there.
pub fn missing(
    states: &[&TableState],
    objects: &BTreeMap<FileName, ObjectFact>,
    newest: &TableState,
) -> Vec<Violation> {
    let gone = |name: &FileName| {
        newest.tombstones.contains_key(name) || newest.garbage.get(name).is_some_and(|garbage| garbage.marked)
    };
    let mut needed: BTreeMap<&FileName, (u64, &'static str)> = BTreeMap::new();
    for state in states {
        for (name, garbage) in state.garbage.iter().filter(|(_, garbage)| !garbage.marked) {
            needed.insert(name, (garbage.bytes, "a past state or a lost attempt"));
        }
        for (name, live) in &state.files {
            needed.insert(name, (live.file.bytes, "the table"));
        }
    }
    needed.retain(|name, _| !gone(name));
    needed
        .into_iter()
        .filter_map(|(name, (bytes, owner))| {
            let place = format!("file {name}");
            match objects.get(name) {
                None => Some(Violation::new(
                    Invariant::Files,
                    place,
                    format!("its object of {bytes} bytes is gone, and {owner} needs it"),
                    "restore the object from a version or a backup of the bucket; until then its rows cannot be read",
                )),
                Some(object) if object.bytes != bytes => Some(Violation::new(
                    Invariant::Immutable,
                    place,
                    format!("its object has {} bytes, and was written with {bytes}", object.bytes),
                    "restore the object from a version or a backup of the bucket",
                )),
                Some(_) => None,
            }
        })
        .collect()
}

/// Objects that no state knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Those that a collection should have swept.
    pub old: Vec<Violation>,
    /// How many are young: some run may still commit them.
    pub young: u64,
}

/// The objects that none of the states knows. The states are read after the listing.
pub fn orphans(
    states: &[&TableState],
    objects: &BTreeMap<FileName, ObjectFact>,
    now: Timestamp,
    age: Duration,
) -> Orphans {
    let mut found = Orphans::default();
    for (name, object) in objects {
        if states.iter().any(|state| state.knows(name)) {
            continue;
        }
        let old = now.since(object.modified);
        if old < age {
            found.young += 1;
            continue;
        }
        found.old.push(Violation::new(
            Invariant::Orphans,
            format!("file {name}"),
            format!(
                "no state knows its object of {} bytes, written at {}",
                object.bytes, object.modified
            ),
            "let garbage collection run (`dormouse gc`): it sweeps what no state knows",
        ));
    }
    found
}
