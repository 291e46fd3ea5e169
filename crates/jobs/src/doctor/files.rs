//! Every byte and row of every live file.

use std::{collections::BTreeSet, sync::Arc};

use dormouse_core::{
    ErrorKind, Result,
    file::DataFile,
    ports::{FaultKind, FileFault, VerifySpec},
    schema::Schema,
    state::{
        TableState,
        invariants::{Invariant, Violation},
    },
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Examination, Part};

/// How many files are read at a time.
const READERS: usize = 2;

impl Examination<'_> {
    /// Reads every live file of `state` whose place is not among those `known` to be wrong. One that is found
    /// wrong, and is still live, is read once more.
    pub(super) async fn files(&self, state: &TableState, known: &BTreeSet<String>) -> Result<Part> {
        let mut part = Part::default();
        let Some(schema) = state.schema() else {
            return Ok(part);
        };
        let sound: Vec<_> = state
            .files()
            .map(|(file, _)| (file, format!("file {}", file.name)))
            .filter(|(_, place)| !known.contains(place))
            .collect();
        part.count("files read", sound.len());
        let looks = sound
            .into_iter()
            .map(|(file, place)| self.read_file(schema, file, place));
        let found: Vec<Vec<Violation>> = stream::iter(looks)
            .buffer_unordered(READERS)
            .try_collect()
            .await?;
        part.findings = found.into_iter().flatten().collect();
        Ok(part)
    }

    async fn read_file(
        &self,
        schema: &Arc<Schema>,
        file: &DataFile,
        place: String,
    ) -> Result<Vec<Violation>> {
        if self.verify(self.spec(schema, file)).await?.is_empty() {
            return Ok(Vec::new());
        }
        match self.state().await? {
            Some(state) if !state.is_referenced(&file.name) => Ok(Vec::new()),
            _ => Ok(violations(&place, self.verify(self.spec(schema, file)).await?)),
        }
    }

    fn spec(&self, schema: &Arc<Schema>, file: &DataFile) -> VerifySpec {
        VerifySpec {
            schema: schema.clone(),
            store: self.services.data.clone(),
            path: file.name.object_path(&self.table.id),
            bytes: file.bytes,
            checksum: file.checksum,
            parts: file.parts.clone(),
        }
    }

    /// What is wrong with a file; one that is gone is found by its listing.
    pub(super) async fn verify(&self, spec: VerifySpec) -> Result<Vec<FileFault>> {
        match self.services.ports.engine.verify(spec).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            result => result,
        }
    }
}

/// One violation for other bytes, as other rows follow from them; else one for each kind of fault.
pub(super) fn violations(place: &str, faults: Vec<FileFault>) -> Vec<Violation> {
    let restore = "restore the object from a version or a backup of the bucket";
    let rewrite = "its bytes are as they were written: the program that wrote it is at fault; keep the file and the \
                   log, and ingest its rows again";
    let text = |kind: Option<FaultKind>| {
        let of_kind = faults
            .iter()
            .filter(|fault| kind.is_none_or(|kind| kind == fault.kind))
            .map(|fault| fault.found.as_str());
        of_kind.collect::<Vec<_>>().join("; ")
    };
    if faults.iter().any(|fault| fault.kind == FaultKind::Bytes) {
        return vec![Violation::new(Invariant::Immutable, place, text(None), restore)];
    }
    [
        (FaultKind::Rows, Invariant::Rows),
        (FaultKind::Order, Invariant::Order),
    ]
    .into_iter()
    .map(|(kind, invariant)| Violation::new(invariant, place, text(Some(kind)), rewrite))
    .filter(|violation| !violation.found.is_empty())
    .collect()
}
