//! Wires the adapters of an embedded instance.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use dormouse_core::{
    Error, Result,
    config::InstanceSettings,
    ids::BucketName,
    ports::{Ids, QueueName, QueueSettings, SystemIds},
};
use dormouse_engine::{EngineOptions, ParquetRowEngine};
use dormouse_jobs::{Ports, Services};
use dormouse_local::LocalDirectory;

use crate::clock::clock;

/// An open embedded instance.
pub(crate) struct Instance {
    pub(crate) services: Services,
    pub(crate) engine: Arc<ParquetRowEngine>,
    pub(crate) directory: Arc<LocalDirectory>,
}

impl Instance {
    /// Opens the instance in this data directory, which is made when it is not there.
    ///
    /// # Errors
    /// `Invalid` when a property is wrong or the directory cannot be used.
    pub(crate) fn open(data: &Path) -> Result<Self> {
        let settings = read_settings(data)?;
        let clock = clock()?;
        let ids: Arc<dyn Ids> = Arc::new(SystemIds);
        let directory = LocalDirectory::open_with_files(
            data,
            &settings.ingest_directories(),
            clock.clone(),
            ids.clone(),
        )?;
        let queue_settings = QueueSettings {
            visibility: settings.queue_visibility(),
            max_attempts: settings.queue_max_attempts(),
        };
        let mut options = EngineOptions {
            memory_bytes: settings.memory_bytes(),
            spill_directory: directory.spill(),
            ..EngineOptions::default()
        };
        if let Some(threads) = settings.threads().and_then(NonZeroUsize::new) {
            options.threads = threads;
        }
        let engine = Arc::new(ParquetRowEngine::new(options, ids.clone()));
        let ports = Ports {
            items: directory.item_store(),
            queues: QueueName::ALL
                .into_iter()
                .map(|name| (name, directory.queue(name, queue_settings)))
                .collect(),
            buckets: directory.buckets(),
            uploads: directory.uploads(),
            copy: directory.copy(),
            engine: engine.clone(),
            clock,
            ids,
            data_bucket: BucketName::new("data")?,
            export_bucket: BucketName::new("export")?,
        };
        Ok(Self {
            services: Services::new(ports, settings)?,
            engine,
            directory,
        })
    }

    /// Where the objects of an export are, as a path of this machine.
    pub(crate) fn export_path(&self, below: &str) -> PathBuf {
        self.directory.path().join("buckets/export").join(below)
    }
}

fn read_settings(data: &Path) -> Result<InstanceSettings> {
    let path = data.join("instance.properties");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(Error::invalid(format!("cannot read {}", path.display())).with_source(error));
        }
    };
    InstanceSettings::read(&text, std::env::vars())
        .map_err(|error| error.context(format!("{} or the environment is wrong", path.display())))
}
