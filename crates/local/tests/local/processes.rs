//! Several processes on one data directory.
//!
//! The test binary starts itself again with the name of a part and a directory; the part tells what it did in
//! lines that start with `@`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use dormouse_core::{
    collections::Collection,
    ports::{
        Clock, Ids, ItemStore, Message, Order, Queue, QueueName, QueueSettings, Range, SystemClock, SystemIds,
    },
    testing::suites::item_store::{append_to_log, check_log},
};
use dormouse_local::LocalDirectory;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::open;

const PART: &str = "DORMOUSE_TEST_PART";
const DIRECTORY: &str = "DORMOUSE_TEST_DIRECTORY";
const PROCESSES: usize = 4;
const LOG: &str = "log";

/// A process that plays a part; killed when dropped.
struct Player {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Player {
    fn start(part: &str, directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args(["--exact", "processes::a_process_plays_its_part", "--nocapture"])
            .env(PART, part)
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output }
    }

    /// The next line that the part told; `None` at the end.
    fn next_line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("output") == 0 {
                return None;
            }
            if let Some((_, told)) = line.trim_end().split_once('@') {
                return Some(told.to_owned());
            }
        }
    }

    fn rest(mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.next_line()).collect();
        assert!(self.child.wait().expect("the end").success(), "a part failed");
        lines
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "@{line}").expect("a pipe");
    output.flush().expect("a pipe");
}

fn queue(directory: &LocalDirectory) -> Arc<dyn Queue> {
    directory.queue(QueueName::Ingest, QueueSettings::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_plays_its_part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let directory = open(Path::new(&std::env::var(DIRECTORY).expect("a directory")));
    match part.as_str() {
        "append" => append(directory.item_store(), 20).await,
        "append for ever" => append(directory.item_store(), usize::MAX).await,
        "consume" => consume(queue(&directory)).await,
        "time" => time_receives(queue(&directory)).await,
        other => panic!("no part {other}"),
    }
}

async fn append(store: Arc<dyn ItemStore>, appends: usize) {
    let process = SystemIds.uuid();
    let mut appenders = JoinSet::new();
    for appender in 0..4 {
        let store = store.clone();
        appenders.spawn(async move {
            for append in 0..appends {
                let what = format!("{process}-{appender}-{append}");
                let number = append_to_log(&*store, LOG, &what).await.expect("an append");
                tell(&format!("{number} {what}"));
            }
        });
    }
    appenders.join_all().await;
}

async fn consume(queue: Arc<dyn Queue>) {
    loop {
        let deliveries = queue.receive(5, Duration::from_secs(1)).await.expect("a receive");
        if deliveries.is_empty() {
            return;
        }
        for delivery in deliveries {
            queue.ack(&delivery.receipt).await.expect("an ack");
            tell(&delivery.body);
        }
    }
}

async fn time_receives(queue: Arc<dyn Queue>) {
    tell("ready");
    loop {
        let deliveries = queue
            .receive(1, Duration::from_secs(30))
            .await
            .expect("a receive");
        let received = SystemClock.now();
        queue.ack(&deliveries[0].receipt).await.expect("an ack");
        if deliveries[0].body == "end" {
            return;
        }
        tell(&received.as_millis().to_string());
    }
}

fn parse_entry(line: &str) -> (u64, String) {
    let (number, what) = line.split_once(' ').expect("a number and text");
    (number.parse().expect("a number"), what.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_append_to_one_log_lose_and_double_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("made/by/whoever/comes/first");
    let players: Vec<_> = (0..PROCESSES).map(|_| Player::start("append", &path)).collect();
    let told: Vec<_> = players.into_iter().flat_map(Player::rest).collect();
    assert_eq!(told.len(), PROCESSES * 4 * 20);
    let acknowledged: BTreeMap<_, _> = told.iter().map(|line| parse_entry(line)).collect();
    check_log(&*open(&path).item_store(), LOG, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_consume_one_queue_share_its_messages() {
    let directory = TempDir::new().unwrap();
    let queue = queue(&open(directory.path()));
    let bodies: BTreeSet<_> = (0..400).map(|n| n.to_string()).collect();
    let messages: Vec<_> = bodies.iter().map(Message::new).collect();
    queue.send(messages[..200].to_vec()).await.unwrap();
    let players: Vec<_> = (0..PROCESSES)
        .map(|_| Player::start("consume", directory.path()))
        .collect();
    for message in &messages[200..] {
        queue.send(vec![message.clone()]).await.unwrap();
    }
    let told: Vec<_> = players.into_iter().flat_map(Player::rest).collect();
    assert_eq!(told.len(), bodies.len(), "a message was delivered twice or never");
    assert_eq!(BTreeSet::from_iter(told), bodies);
    assert_eq!(queue.depth().await.unwrap(), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_milliseconds_after_another_process_sends() {
    let directory = TempDir::new().unwrap();
    let queue = queue(&open(directory.path()));
    let mut player = Player::start("time", directory.path());
    assert_eq!(player.next_line().as_deref(), Some("ready"));
    let mut delays = Vec::new();
    for _ in 0..20 {
        SystemClock.sleep(Duration::from_millis(40)).await;
        queue.send(vec![Message::new("now")]).await.unwrap();
        let sent = SystemClock.now().as_millis();
        let received: i64 = player.next_line().unwrap().parse().unwrap();
        delays.push(received - sent);
    }
    queue.send(vec![Message::new("end")]).await.unwrap();
    delays.sort_unstable();
    let typical = delays[delays.len() / 2];
    assert!(typical < 100, "waits ended {typical} ms after a send: {delays:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_process_amid_writes_loses_no_acknowledged_write() {
    let directory = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for kill in 1..=3 {
        let mut players: Vec<_> = (0..2)
            .map(|_| Player::start("append for ever", directory.path()))
            .collect();
        for player in &mut players {
            acknowledged.extend((0..10 * kill).filter_map(|_| player.next_line()));
        }
        for mut player in players {
            player.child.kill().unwrap();
            acknowledged.extend(std::iter::from_fn(|| player.next_line()));
        }
    }
    let store = open(directory.path()).item_store();
    let entries = store
        .query(
            Collection::Transactions,
            LOG,
            Range::all(),
            usize::MAX,
            Order::Ascending,
        )
        .await
        .unwrap();
    let entries: BTreeMap<_, _> = (1..)
        .zip(entries)
        .map(|(number, item)| (number, item.text("what").unwrap().to_owned()))
        .collect();
    check_log(&*store, LOG, &entries).await;
    for line in acknowledged {
        let (number, what) = parse_entry(&line);
        assert_eq!(
            entries.get(&number),
            Some(&what),
            "entry {number} was acknowledged otherwise"
        );
    }
}
