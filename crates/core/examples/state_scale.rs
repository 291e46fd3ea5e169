//! How a table of a million files loads and commits.
//!
//! `cargo run --release -p dormouse-core --example state_scale -- [files] [leaves]` builds the state and a
//! snapshot of it in a directory, then runs itself again to load the snapshot in a fresh process, so that the
//! memory it reports is what loading takes.

#![expect(clippy::print_stdout, reason = "this program prints its findings")]
#![expect(clippy::disallowed_methods, reason = "this program measures real time")]

use std::{error::Error, process::Command, sync::Arc, time::Instant};

use dormouse_core::{collections::Collection, ports::ItemKey};
use dormouse_core::{
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, RunId, TableId},
    key::{Key, KeyRange, KeyValue},
    partition::tree_from_split_points,
    ports::{Clock, Condition, Ids, Item, ItemStore, Order, Range, SystemClock, SystemIds},
    schema::{Column, DataType, Schema},
    state::{Commit, CommitId, Record, StateStore, TableState, snapshot},
    testing::memory::MemoryItemStore,
};
use object_store::{ObjectStoreExt, memory::InMemory};
use sha2::{Digest, Sha256};

type Done<T> = Result<T, Box<dyn Error>>;

const PATH: &str = "0a1b2c3d/statestore/snapshots/scale.dmsnap";

fn main() -> Done<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()?;
    if let [flag, path, transaction, at, hash] = arguments.as_slice()
        && flag == "load"
    {
        return runtime.block_on(load(path, transaction.parse()?, at.parse()?, hash));
    }
    let number = |i: usize, or: usize| arguments.get(i).map_or(Ok(or), |text| text.parse());
    let (files, leaves) = (number(0, 1_000_000)?, number(1, 10_000)?);
    let directory = std::env::temp_dir().join(format!("state-scale-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("snapshot");
    let state = build(files, leaves)?;
    let started = Instant::now();
    let bytes = snapshot::encode(&table()?, &state)?;
    println!(
        "encode: {:.2} s, {} MB for {files} files on {leaves} leaves, resident {}",
        started.elapsed().as_secs_f64(),
        bytes.len() / 1_000_000,
        resident()
    );
    std::fs::write(&path, &bytes)?;
    let transaction = state.transaction().0.to_string();
    let at = state.at().as_millis().to_string();
    let hash = hex::encode(state.hash().0);
    drop((state, bytes));
    let program = std::env::current_exe()?;
    let status = Command::new(program)
        .arg("load")
        .arg(&path)
        .args([transaction, at, hash])
        .status()?;
    std::fs::remove_dir_all(&directory)?;
    if status.success() {
        Ok(())
    } else {
        Err("loading failed".into())
    }
}

fn table() -> Done<TableId> {
    Ok(TableId::new("0a1b2c3d")?)
}

/// The `i`-th of `n` keys of ten letters, in order.
fn key(i: usize, n: usize) -> Key {
    let mut place = (i as u128 * 26_u128.pow(10) / n as u128) as u64;
    let mut letters = [b'a'; 10];
    for letter in letters.iter_mut().rev() {
        *letter = b'a' + (place % 26) as u8;
        place /= 26;
    }
    Key::new([KeyValue::Utf8(String::from_utf8_lossy(&letters).into())])
}

fn build(files: usize, leaves: usize) -> Done<TableState> {
    let schema = Schema::new(vec![Column::required("key", DataType::Utf8)], vec![], vec![])?;
    let points: Vec<_> = (1..leaves).map(|i| key(i, leaves)).collect();
    let new_id = || PartitionId::new(SystemIds.uuid().to_string()).unwrap_or_else(|_| PartitionId::root());
    let partitions = tree_from_split_points(&points, new_id)?;
    let mut state = TableState::default();
    let commit = Commit::new(
        CommitId::new("create"),
        Record::TableCreated {
            schema: Arc::new(schema),
            partitions,
        },
    );
    state.apply(state.transaction().next(), SystemClock.now(), [&commit]);
    let ids: Vec<_> = state.leaves().map(|leaf| leaf.id).collect();
    for group in 0..files.div_ceil(1000) {
        let range = group * 1000..files.min((group + 1) * 1000);
        let files = range
            .map(|i| data_file(&ids[i % leaves], i % leaves, leaves))
            .collect();
        let commit = added(files)?;
        let outcomes = state.apply(state.transaction().next(), SystemClock.now(), [&commit]);
        for outcome in outcomes {
            outcome.into_result()?;
        }
    }
    Ok(state)
}

fn data_file(leaf: &PartitionId, place: usize, leaves: usize) -> Arc<DataFile> {
    let range = KeyRange {
        min: key(place * 4 + 1, leaves * 4),
        max: key(place * 4 + 3, leaves * 4),
    };
    let random = u128::from(SystemIds.random());
    Arc::new(DataFile {
        name: FileName::new(leaf, SystemIds.uuid()),
        rows: 1_000_000,
        bytes: 40_000_000,
        checksum: Checksum(SystemIds.random()),
        parts: vec![FilePart {
            range,
            rows: 1_000_000,
            digest: RowDigest(random << 64 | random),
        }],
    })
}

fn added(files: Vec<Arc<DataFile>>) -> Done<Commit> {
    let job = JobId::new(SystemIds.uuid().to_string())?;
    let run = RunId::new(SystemIds.uuid().to_string())?;
    let id = CommitId::of_run(&job, &run);
    let issued = SystemClock.now();
    Ok(Commit::new(
        id,
        Record::FilesAdded {
            job,
            run,
            issued,
            files,
        },
    ))
}

/// Lists the snapshot and a log that ends with it, loads it, and commits.
async fn load(path: &str, transaction: u64, at: i64, hash: &str) -> Done<()> {
    let objects = Arc::new(InMemory::new());
    let items = Arc::new(MemoryItemStore::new(Arc::new(SystemClock)));
    let bytes = std::fs::read(path)?;
    let (table, length) = (table()?, bytes.len());
    let digest = hex::encode(Sha256::digest(&bytes));
    objects.put(&PATH.into(), bytes.into()).await?;
    let item = |collection, sort: dormouse_core::ports::Sort| {
        Item::new(ItemKey::new(collection, table.as_str(), sort)).with("at", at)
    };
    let listed = item(Collection::Snapshots, transaction.into())
        .with("path", PATH)
        .with("digest", digest)
        .with("bytes", length as u64);
    let head = item(Collection::Heads, ().into())
        .with("number", transaction)
        .with("hash", hash)
        .with("floor", 1_u64);
    for item in [listed, head] {
        items.put(item, Condition::None).await?;
    }
    println!("before: resident {}", resident());

    let store = StateStore::new(items.clone(), objects, Arc::new(SystemClock), Arc::new(SystemIds));
    let started = Instant::now();
    let state = store.state(&table).await?;
    println!(
        "load: {:.2} s, {} files, {} references, resident {}",
        started.elapsed().as_secs_f64(),
        state.file_count(),
        state.reference_count(),
        resident()
    );
    let leaves: Vec<_> = state.leaves().map(|leaf| leaf.id).collect();
    drop(state);
    let mut times = Vec::new();
    for i in 0..100 {
        let place = i * 97 % leaves.len();
        let commit = added(vec![data_file(&leaves[place], place, leaves.len())])?;
        let started = Instant::now();
        store.commit(&table, commit).await?.outcome.into_result()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!(
        "commit of one file: median {:?}, slowest of 100 {:?}",
        times[50], times[99]
    );
    let entries = items
        .query(
            Collection::Transactions,
            table.as_str(),
            Range::all(),
            1000,
            Order::Ascending,
        )
        .await?;
    println!(
        "{} entries after the snapshot, resident {}",
        entries.len(),
        resident()
    );
    Ok(())
}

/// Resident memory now, and at its highest.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("?");
        line.split_whitespace()
            .next()
            .and_then(|kb| kb.parse::<u64>().ok())
            .unwrap_or_default()
            / 1024
    };
    format!("{} MiB, at most {} MiB", line("VmRSS:"), line("VmHWM:"))
}
