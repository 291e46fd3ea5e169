//! Finding the objects that a job names.

use dormouse_core::{
    Error, Result,
    message::Location,
    ports::{Bucket, InputObject},
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use std::{collections::BTreeMap, sync::Arc};

use crate::services::Services;

/// How many paths are looked for at a time.
const LOOKUPS: usize = 16;

/// Every object that the locations name: an object itself, or each `*.parquet` below a prefix.
///
/// # Errors
/// `Invalid`, with all paths that match nothing, or with an object that is named twice; `NotFound` when a bucket
/// does not exist.
pub(super) async fn find(services: &Services, files: &[(String, Location)]) -> Result<Vec<InputObject>> {
    let mut inputs: Vec<InputObject> = Vec::new();
    let mut unmatched = Vec::new();
    let mut named_by: BTreeMap<String, &str> = BTreeMap::new();
    let lookups: Vec<_> = files
        .iter()
        .map(|(name, location)| look_up(services, name, location).boxed())
        .collect();
    let mut lookups = stream::iter(lookups).buffered(LOOKUPS);
    while let Some((name, location, store, found)) = lookups.try_next().await? {
        if found.is_empty() {
            unmatched.push(format!("\"{name}\""));
        }
        for meta in found {
            let whole = format!("{}/{}", location.bucket, meta.location);
            if let Some(other) = named_by.insert(whole.clone(), name) {
                return Err(Error::invalid(format!(
                    "{whole} is named twice, by \"{other}\" and by \"{name}\": its rows would be doubled"
                )));
            }
            inputs.push(input(&store, name, &location.path, meta));
        }
    }
    if !unmatched.is_empty() {
        return Err(Error::invalid(format!(
            "Could not find one or more paths: {}",
            unmatched.join(", ")
        )));
    }
    Ok(inputs)
}

type Found<'a> = (&'a str, &'a Location, Arc<dyn ObjectStore>, Vec<ObjectMeta>);

async fn look_up<'a>(services: &'a Services, name: &'a str, location: &'a Location) -> Result<Found<'a>> {
    let store = services
        .ports
        .buckets
        .open(&location.bucket)
        .map_err(|error| error.context(format!("cannot read \"{name}\"")))?;
    let found = find_one(&*store, &location.path)
        .await
        .map_err(|error| match error {
            object_store::Error::InvalidPath { .. } if location.bucket == Bucket::Files => {
                let allowed: Vec<_> = services
                    .settings
                    .ingest_directories()
                    .iter()
                    .map(|directory| directory.display().to_string())
                    .collect();
                Error::invalid(format!(
                    "\"{name}\" is not below a directory that `dormouse.ingest.file.directories` allows: {}",
                    allowed.join(", ")
                ))
            }
            error => Error::from(error).context(format!("cannot look for \"{name}\"")),
        })?;
    Ok((name, location, store, found))
}

async fn find_one(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Vec<ObjectMeta>> {
    if !path.as_ref().is_empty() {
        match store.head(path).await {
            Ok(meta) => return Ok(vec![meta]),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let below = Some(path).filter(|path| !path.as_ref().is_empty());
    let mut found: Vec<_> = store
        .list(below)
        .try_filter(|meta| std::future::ready(meta.location.as_ref().ends_with(".parquet")))
        .try_collect()
        .await?;
    found.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(found)
}

fn input(store: &Arc<dyn ObjectStore>, name: &str, asked: &Path, meta: ObjectMeta) -> InputObject {
    let name = match meta.location.as_ref().strip_prefix(asked.as_ref()) {
        Some(below) if !below.is_empty() => {
            format!("{}/{}", name.trim_end_matches('/'), below.trim_start_matches('/'))
        }
        _ => name.to_owned(),
    };
    InputObject {
        name,
        store: store.clone(),
        path: meta.location,
        bytes: meta.size,
        e_tag: meta.e_tag,
    }
}
