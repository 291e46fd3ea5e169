//! Prints how fast the embedded adapters are: `cargo run --release -p dormouse-local --example rates [directory]`.
//!
//! Every figure includes the wait for the disk. Without an argument a temporary directory is used.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dormouse_core::{
    Result,
    ids::BucketName,
    ports::{Bucket, Clock, Ids, Message, Queue, QueueName, QueueSettings, SystemClock, SystemIds},
    testing::suites::item_store::append_to_log,
};
use dormouse_local::LocalDirectory;
use futures::future::try_join_all;
use object_store::ObjectStoreExt;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<()> {
    let root = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let path = root.join(format!("dormouse-rates-{}", SystemIds.uuid()));
    let measured = measure(&path).await;
    let removed = std::fs::remove_dir_all(&path);
    measured?;
    removed.map_err(|error| dormouse_core::Error::unavailable("cannot clean up").with_source(error))
}

#[expect(clippy::print_stdout, reason = "an example prints its figures")]
fn report(what: &str, operations: usize, took: Duration) {
    let rate = operations as f64 / took.as_secs_f64();
    println!("{what:<46} {rate:>9.0}/s   ({operations} in {took:.2?})");
}

async fn timed<T>(what: &str, operations: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = SystemClock.now();
    let result = work.await?;
    report(what, operations, SystemClock.now().since(start));
    Ok(result)
}

async fn measure(path: &Path) -> Result<()> {
    let directory = LocalDirectory::open(path, Arc::new(SystemClock), Arc::new(SystemIds))?;
    let store = directory.item_store();
    for appenders in [1, 16] {
        let per_appender = 1600 / appenders;
        let logs = (0..appenders).map(|appender| {
            let (store, log) = (store.clone(), format!("{appenders}-{appender}"));
            async move {
                for append in 0..per_appender {
                    append_to_log(&*store, &log, &append.to_string()).await?;
                }
                Ok(())
            }
        });
        let what = format!("appends, {appenders} appenders on a log each");
        timed(&what, 1600, spread(logs)).await?;
    }
    let contended = (0..16).map(|appender| {
        let store = store.clone();
        async move {
            for append in 0..25 {
                append_to_log(&*store, "one", &format!("{appender}/{append}")).await?;
            }
            Ok(())
        }
    });
    timed("appends, 16 appenders on one log", 400, spread(contended)).await?;

    let queue = directory.queue(QueueName::Ingest, QueueSettings::default());
    let singles = async {
        for n in 0..500 {
            queue.send(vec![Message::new(n.to_string())]).await?;
        }
        Ok(())
    };
    timed("send, one at a time", 500, singles).await?;
    let batches = async {
        for _ in 0..100 {
            queue.send(vec![Message::new("body"); 100]).await?;
        }
        Ok(())
    };
    timed("send, batches of 100", 10_000, batches).await?;
    let drained = drain(queue.clone(), 1, 1500);
    timed("receive 1, ack, one consumer", 1500, drained).await?;
    let consumers = (0..16).map(|_| drain(queue.clone(), 10, 9000 / 16));
    timed("receive 10, ack each, 16 consumers", 9000, spread(consumers)).await?;

    let bucket = Bucket::Named(BucketName::new("data")?);
    let objects = directory.buckets().open(&bucket)?;
    let puts = async {
        for n in 0..200 {
            let path = format!("table/data/partition_root/{n}").into();
            objects.put(&path, vec![0; 10_000].into()).await?;
        }
        Ok(())
    };
    timed("put of 10 kB objects, one at a time", 200, puts).await?;
    let puts = (0..16).map(|writer| {
        let objects = objects.clone();
        async move {
            for n in 0..25 {
                let path = format!("table/data/partition_{writer}/{n}").into();
                objects.put(&path, vec![0; 10_000].into()).await?;
            }
            Ok(())
        }
    });
    timed("put of 10 kB objects, 16 writers", 400, spread(puts)).await?;
    wake_ups(directory).await
}

/// Runs each future as a task.
async fn spread(
    tasks: impl Iterator<Item = impl Future<Output = Result<()>> + Send + 'static>,
) -> Result<()> {
    let tasks: JoinSet<_> = tasks.collect();
    tasks.join_all().await.into_iter().collect()
}

async fn drain(queue: Arc<dyn Queue>, batch: usize, messages: usize) -> Result<()> {
    let mut drained = 0;
    while drained < messages {
        let deliveries = queue.receive(batch, Duration::from_millis(100)).await?;
        if deliveries.is_empty() {
            break;
        }
        drained += deliveries.len();
        try_join_all(deliveries.iter().map(|delivery| queue.ack(&delivery.receipt))).await?;
    }
    Ok(())
}

/// From the end of a send to the end of the receive that waited for it, in one process and between two handles
/// that share nothing but the directory.
async fn wake_ups(directory: Arc<LocalDirectory>) -> Result<()> {
    let other = LocalDirectory::open(directory.path(), Arc::new(SystemClock), Arc::new(SystemIds))?;
    for (what, receiver) in [("same process", &directory), ("another process", &other)] {
        let sender = directory.queue(QueueName::Export, QueueSettings::default());
        let receiver = receiver.queue(QueueName::Export, QueueSettings::default());
        let mut total = Duration::ZERO;
        for _ in 0..100 {
            let wait = async {
                let deliveries = receiver.receive(1, Duration::from_secs(10)).await?;
                Ok::<_, dormouse_core::Error>((SystemClock.now(), deliveries))
            };
            let send = async {
                SystemClock.sleep(Duration::from_millis(20)).await;
                sender.send(vec![Message::new("wake")]).await?;
                Ok(SystemClock.now())
            };
            let ((received, deliveries), sent) = futures::future::try_join(wait, send).await?;
            receiver.ack(&deliveries[0].receipt).await?;
            total += received.since(sent);
        }
        let what = format!("wake-ups after a send, {what}");
        report(&what, 100, total);
    }
    Ok(())
}
