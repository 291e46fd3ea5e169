//! Properties: the text of `instance.properties`; below a line `---`, a table's properties; below another one, the
//! environment.

use std::collections::BTreeMap;

use dormouse_core::{
    ErrorKind,
    config::{InstanceSettings, TableSettings},
};

use crate::text;

pub(crate) fn run(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let mut parts = text.split("\n---\n");
    let instance = parts.next().unwrap_or_default();
    let table = pairs(parts.next());
    let environment = pairs(parts.next());
    let checked = TableSettings::check(&table);
    if let Err(error) = &checked {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
    }
    let settings = match InstanceSettings::read(instance, environment) {
        Ok(settings) => settings,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report()),
    };
    ask_instance(&settings);
    let of_table = settings.for_table(&table);
    assert_eq!(of_table.is_ok(), checked.is_ok(), "two checks disagree");
    if let Ok(settings) = of_table {
        let _ = (settings.file_target_bytes(), settings.history_retention());
        let _ = (settings.snapshot_min_transactions(), settings.gc_delay());
        let _ = settings.commit_mode();
    }
}

fn pairs(text: Option<&str>) -> BTreeMap<String, String> {
    text.unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn ask_instance(settings: &InstanceSettings) {
    for period in [
        settings.snapshot_period(),
        settings.gc_period(),
        settings.tracker_repair_period(),
    ] {
        assert!(period.as_millis() >= 100, "a period of {period:?}");
    }
    let _ = (
        settings.queue_visibility(),
        settings.worker_drain(),
        settings.memory_bytes(),
    );
    let _ = (
        settings.orphan_age(),
        settings.job_status_ttl(),
        settings.export_pin(),
    );
    assert!(settings.queue_max_attempts() >= 1);
    assert!(settings.ingest_concurrency() >= 1 && settings.export_concurrency() >= 1);
    assert_ne!(settings.threads(), Some(0));
    assert!(
        settings
            .ingest_directories()
            .iter()
            .all(|directory| directory.is_absolute())
    );
}
