//! Tests of the embedded adapters as their users see them.

#[path = "local/objects.rs"]
mod objects;
#[path = "local/opening.rs"]
mod opening;
#[path = "local/ports.rs"]
mod ports;
#[path = "local/processes.rs"]
mod processes;

use std::{path::Path, sync::Arc};

use dormouse_core::ports::{SystemClock, SystemIds};
use dormouse_local::LocalDirectory;

fn open(path: &Path) -> Arc<LocalDirectory> {
    LocalDirectory::open(path, Arc::new(SystemClock), Arc::new(SystemIds)).expect("an open data directory")
}
