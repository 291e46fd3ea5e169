//! Wires the adapters of an instance: in a data directory, or on AWS.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use dormouse_aws::{AwsInstance, Clients, Location, Names, objects::S3Buckets, signer::S3Signer};
use dormouse_core::{
    Error, Result,
    config::InstanceSettings,
    ids::BucketName,
    ports::{Ids, QueueName, QueueSettings, SystemIds},
};
use dormouse_engine::{EngineOptions, ParquetRowEngine, SqlEngine};
use dormouse_jobs::{Ports, Services};
use dormouse_local::LocalDirectory;
use tempfile::TempDir;

use crate::{args::Args, clock::clock, metrics::EmfMetrics};

/// An open instance.
pub(crate) struct Instance {
    pub(crate) services: Services,
    pub(crate) engine: Arc<ParquetRowEngine>,
    pub(crate) place: Place,
}

/// Where an instance is.
pub(crate) enum Place {
    /// In a data directory.
    Directory(Arc<LocalDirectory>),
    /// On AWS.
    Aws(Box<AwsPlace>),
}

/// An instance on AWS.
pub(crate) struct AwsPlace {
    pub(crate) location: Location,
    pub(crate) signer: Arc<S3Signer>,
    /// Where sorts put what does not fit their memory; removed at the end.
    _spill: TempDir,
}

impl Instance {
    /// Opens the instance that the arguments name. A data directory is made when it is not there.
    ///
    /// # Errors
    /// `Invalid` when a property is wrong or the directory cannot be used; `Unavailable` when a service does not
    /// answer, or a part of the instance is missing.
    pub(crate) async fn open(args: &Args) -> Result<Self> {
        match &args.instance {
            None => Self::open_directory(&args.data),
            Some(_) => Self::open_aws(args).await,
        }
    }

    fn open_directory(data: &Path) -> Result<Self> {
        let settings = read_settings(&data.join("instance.properties"), Missing::IsEmpty)?;
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
        let (engine, queries) = engines(&settings, directory.spill(), &ids);
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
            queries,
            clock,
            ids,
            data_bucket: BucketName::new("data")?,
            export_bucket: BucketName::new("export")?,
        };
        Ok(Self {
            services: Services::new(ports, settings)?,
            engine,
            place: Place::Directory(directory),
        })
    }

    async fn open_aws(args: &Args) -> Result<Self> {
        let Found {
            location,
            buckets,
            settings,
        } = find(args).await?;
        let clock = clock()?;
        let ids: Arc<dyn Ids> = Arc::new(SystemIds);
        let opened = AwsInstance::open(&location, &settings, buckets, clock.clone(), ids.clone()).await?;
        let spill = tempfile::Builder::new()
            .prefix("dormouse-spill-")
            .tempdir()
            .map_err(|error| Error::unavailable("cannot make a directory to spill to").with_source(error))?;
        let (engine, queries) = engines(&settings, spill.path().to_owned(), &ids);
        let ports = Ports {
            queues: opened.queues().collect(),
            items: opened.items,
            buckets: opened.buckets.clone(),
            uploads: opened.buckets,
            copy: opened.copy,
            engine: engine.clone(),
            queries,
            clock: clock.clone(),
            ids,
            data_bucket: opened.data_bucket,
            export_bucket: opened.export_bucket,
        };
        let mut services = Services::new(ports, settings)?;
        if args.command.is_server() {
            let metrics = EmfMetrics::new(
                services.settings.metrics_namespace(),
                location.names.instance(),
                clock,
            );
            services = services.with_metrics(Arc::new(metrics));
        }
        let place = AwsPlace {
            location,
            signer: opened.signer,
            _spill: spill,
        };
        Ok(Self {
            services,
            engine,
            place: Place::Aws(Box::new(place)),
        })
    }

    /// The data directory.
    ///
    /// # Errors
    /// `Invalid` when the instance has none.
    pub(crate) fn directory(&self) -> Result<&Path> {
        match &self.place {
            Place::Directory(directory) => Ok(directory.path()),
            Place::Aws(_) => Err(Error::invalid(
                "this command works in a data directory, not on AWS",
            )),
        }
    }

    /// The instance as one on AWS.
    ///
    /// # Errors
    /// `Invalid` when it is in a data directory.
    pub(crate) fn aws(&self) -> Result<&AwsPlace> {
        match &self.place {
            Place::Aws(place) => Ok(place),
            Place::Directory(_) => Err(no_instance()),
        }
    }

    /// Where an object of a report is, for people: a path of this machine, or the URL as it is.
    pub(crate) fn object_place(&self, url: &str) -> String {
        match &self.place {
            Place::Directory(directory) => {
                let below = url.strip_prefix("s3://").unwrap_or(url);
                directory.path().join("buckets").join(below).display().to_string()
            }
            Place::Aws(_) => url.to_owned(),
        }
    }

    /// What to call the instance.
    pub(crate) fn name(&self) -> String {
        match &self.place {
            Place::Directory(directory) => directory.path().display().to_string(),
            Place::Aws(place) => place.location.names.instance().to_owned(),
        }
    }
}

/// An instance on AWS that is not open.
pub(crate) struct Found {
    pub(crate) location: Location,
    pub(crate) buckets: Arc<S3Buckets>,
    pub(crate) settings: InstanceSettings,
}

/// Finds the instance on AWS that the arguments name, and its properties; without any it has those of the
/// environment.
///
/// # Errors
/// `Invalid` when none is named or a property is wrong; `Unavailable` when a service does not answer.
pub(crate) async fn find(args: &Args) -> Result<Found> {
    let names = Names::new(args.instance.as_deref().ok_or_else(no_instance)?)?;
    let location = Location::new(
        Clients::from_environment().await?,
        names,
        args.config_bucket.clone(),
    );
    let buckets = Arc::new(S3Buckets::new(&location.clients, clock()?));
    let settings = match &args.properties_file {
        Some(path) => read_settings(path, Missing::IsWrong)?,
        None => {
            let text = location.properties(&buckets).await?.unwrap_or_default();
            parse_settings(&text, "instance.properties in the config bucket")?
        }
    };
    Ok(Found {
        location,
        buckets,
        settings,
    })
}

fn no_instance() -> Error {
    Error::invalid("this command is for instances on AWS; name one with --instance")
}

fn engines(
    settings: &InstanceSettings,
    spill_directory: PathBuf,
    ids: &Arc<dyn Ids>,
) -> (Arc<ParquetRowEngine>, Arc<SqlEngine>) {
    let mut options = EngineOptions {
        memory_bytes: settings.memory_bytes(),
        spill_directory,
        ..EngineOptions::default()
    };
    if let Some(threads) = settings.threads().and_then(NonZeroUsize::new) {
        options.threads = threads;
    }
    let footers = usize::try_from(settings.query_footer_bytes()).unwrap_or(usize::MAX);
    let queries = Arc::new(SqlEngine::new(&options, footers, &**ids));
    (Arc::new(ParquetRowEngine::new(options, ids.clone())), queries)
}

/// What a file of properties means that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsEmpty,
    IsWrong,
}

fn read_settings(path: &Path, missing: Missing) -> Result<InstanceSettings> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && missing == Missing::IsEmpty => {
            String::new()
        }
        Err(error) => {
            return Err(Error::invalid(format!("cannot read {}", path.display())).with_source(error));
        }
    };
    parse_settings(&text, &path.display().to_string())
}

fn parse_settings(text: &str, place: &str) -> Result<InstanceSettings> {
    InstanceSettings::read(text, std::env::vars())
        .map_err(|error| error.context(format!("{place} or the environment is wrong")))
}
