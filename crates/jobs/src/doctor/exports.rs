//! Finished exports: the mark, the manifest, the plan, and every file.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_core::{
    Error, ErrorKind, Result,
    file::FilePart,
    ids::ExportId,
    key::KeyRange,
    plan::export::{ExportPlan, Manifest, ManifestFile},
    ports::VerifySpec,
    state::invariants::{ExportView, Invariant, Violation, check_export},
    tracker::{JobKind, JobStatus},
};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};

use super::{Depth, Examination, Part, files::violations};

const REMEDY: &str = "export the table again under another id; this one must not be used";

impl Examination<'_> {
    pub(super) async fn exports(&self) -> Result<Part> {
        let mut part = Part::default();
        let mut claimed = BTreeSet::new();
        for report in self.reports(Some(JobKind::Export)).await? {
            if report.status == JobStatus::Finished {
                claimed.insert(ExportId::new(report.key.job.as_str())?);
            }
        }
        let mut found = self.list_exports().await?;
        for export in &claimed {
            if !found.contains_key(export) {
                part.count("exports removed", 1);
            }
        }
        found.retain(|export, objects| objects.contains_key("_SUCCESS") || claimed.contains(export));
        part.count("finished exports", found.len());
        for (export, objects) in found {
            let is_claimed = claimed.contains(&export);
            let findings = self.export(&export, objects, is_claimed).await?;
            part.findings.extend(findings);
        }
        Ok(part)
    }

    /// The objects of each export of the table, by name, with their sizes.
    async fn list_exports(&self) -> Result<BTreeMap<ExportId, BTreeMap<String, u64>>> {
        let prefix = Path::from(self.table.id.as_str());
        let mut found: BTreeMap<ExportId, BTreeMap<String, u64>> = BTreeMap::new();
        let mut listed = self.services.exports.list(Some(&prefix));
        while let Some(meta) = listed.try_next().await? {
            let below: Vec<_> = meta.location.parts().skip(1).collect();
            let [export, name] = below.as_slice() else {
                continue;
            };
            if let Ok(export) = ExportId::new(export.as_ref()) {
                found
                    .entry(export)
                    .or_default()
                    .insert(name.as_ref().to_owned(), meta.size);
            }
        }
        Ok(found)
    }

    async fn export(
        &self,
        export: &ExportId,
        objects: BTreeMap<String, u64>,
        claimed: bool,
    ) -> Result<Vec<Violation>> {
        let table = &self.table.id;
        let place = format!("export {export}");
        let mut findings = Vec::new();
        let manifest = self
            .read(&ExportPlan::manifest_path(table, export), |body| {
                serde_json::from_slice::<Manifest>(body)
                    .map_err(|error| Error::corrupt("its manifest is damaged").with_source(error))
            })
            .await?;
        let plan = self
            .read(&ExportPlan::path(table, export), ExportPlan::decode)
            .await?;
        let mut readable = |result: Result<(), Error>| {
            if let Err(error) = result {
                findings.push(Violation::new(Invariant::Export, &place, error.report(), REMEDY));
            }
        };
        let (manifest, damage) = split(manifest);
        readable(damage);
        let is_damaged = manifest.is_none() && objects.contains_key("_manifest.json");
        let (plan, damage) = split(plan);
        readable(damage);
        if !is_damaged {
            findings.extend(check_export(ExportView {
                place: &place,
                claimed,
                plan: plan.as_ref(),
                manifest: manifest.as_ref(),
                marked: objects.contains_key("_SUCCESS"),
                objects: &objects,
            }));
        }
        if let Some(manifest) = manifest.filter(|_| self.depth == Depth::Deep) {
            for file in &manifest.files {
                if objects.get(&file.file) == Some(&file.bytes) {
                    findings.extend(self.exported_file(export, &manifest, file).await?);
                }
            }
        }
        Ok(findings)
    }

    /// An object, decoded; none when there is none, and an error inside when it is damaged.
    async fn read<T>(&self, path: &Path, decode: impl Fn(&[u8]) -> Result<T>) -> Result<Option<Result<T>>> {
        let body = match self.services.exports.get(path).await {
            Ok(object) => object.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match decode(&body) {
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            result => Ok(Some(result)),
        }
    }

    async fn exported_file(
        &self,
        export: &ExportId,
        manifest: &Manifest,
        file: &ManifestFile,
    ) -> Result<Vec<Violation>> {
        let range = file.min_key.clone().zip(file.max_key.clone());
        let parts = range.map(|(min, max)| FilePart {
            range: KeyRange { min, max },
            rows: file.rows,
            digest: file.row_digest,
        });
        let spec = VerifySpec {
            schema: manifest.schema.clone(),
            store: self.services.exports.clone(),
            path: ExportPlan::prefix(&self.table.id, export).join(file.file.as_str()),
            bytes: file.bytes,
            checksum: file.crc64_nvme,
            parts: parts.into_iter().collect(),
        };
        let faults = self.verify(spec).await?;
        let mut found = violations(&format!("export {export}, file {}", file.file), faults);
        for violation in &mut found {
            violation.remedy = REMEDY.into();
        }
        Ok(found)
    }
}

fn split<T>(read: Option<Result<T>>) -> (Option<T>, Result<()>) {
    match read {
        None => (None, Ok(())),
        Some(Ok(value)) => (Some(value), Ok(())),
        Some(Err(error)) => (None, Err(error)),
    }
}
