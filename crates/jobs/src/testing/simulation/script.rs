//! What clients and operators do.

use std::{fmt::Display, sync::Arc, time::Duration};

use dormouse_core::{
    ids::{JobId, PartitionId, TableId, TransactionNumber},
    message::IngestMessage,
    ports::QueueName,
    predicate::Predicate,
    state::{AsOf, Commit, CommitId, Record, transaction::Split},
    tables::TableInfo,
    testing::rows::Row,
};
use object_store::{ObjectStoreExt, path::Path};
use rand::{RngExt, seq::IndexedRandom};

use super::{FaultKind, Run};
use crate::{
    compaction::Purge,
    testing::{
        checks::{Expected, Sent},
        instance::{KEYS, TableForm},
        ports::INPUTS,
        stage::Control,
    },
};

/// The clients and operators of a run.
pub(super) struct Script<'a> {
    run: &'a Run,
    pub(super) expected: Expected,
    bodies: Vec<(QueueName, String)>,
    /// Purges that were given up.
    purges: Vec<Purged>,
    next: u32,
}

/// A purge of a job's rows.
struct Purged {
    table: TableInfo,
    job: JobId,
    predicate: Predicate,
}

impl<'a> Script<'a> {
    /// Makes the first tables.
    pub(super) async fn new(run: &'a Run) -> Self {
        let mut script = Self {
            run,
            expected: Expected::default(),
            bodies: Vec::new(),
            purges: Vec::new(),
            next: 0,
        };
        for table in 0..run.draw(|rng| rng.random_range(1..=2)) {
            script.create(&format!("table-{table}")).await;
        }
        script
    }

    fn count(&self, rare_event: &'static str) {
        self.run.instance.stage.auditor.count(rare_event);
    }

    fn note(&self, what: impl Display) {
        self.run.instance.stage.note(what);
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    async fn create(&mut self, name: &str) {
        let (leaves, queued, snapshot, target, batch, threshold) = self.run.draw(|rng| {
            let leaves = *[1, 1, 2, 4, 8, 8, 450].choose(rng).unwrap_or(&1);
            let leaves = if leaves > 8 && rng.random_bool(0.7) {
                3
            } else {
                leaves
            };
            (
                leaves,
                rng.random_bool(0.3),
                rng.random_range(1..30),
                rng.random_range(1..3000),
                rng.random_range(2..8),
                *[30, 100, 300, 100_000].choose(rng).unwrap_or(&100),
            )
        });
        let form = TableForm {
            leaves,
            queued,
            snapshot,
            target,
            batch,
            threshold,
        };
        let info = self.run.instance.create(name, form).await;
        self.expected.tables.insert(name.to_owned(), info);
    }

    fn any_table(&self) -> (String, TableInfo) {
        let tables: Vec<_> = self.expected.tables.iter().collect();
        let (name, info) = self.run.draw(|rng| *tables.choose(rng).unwrap());
        (name.clone(), info.clone())
    }

    async fn send(&mut self, queue: QueueName, body: String) -> String {
        self.bodies.push((queue, body.clone()));
        self.run.instance.send(queue, body).await
    }

    /// All that clients and operators do while faults come.
    pub(super) async fn work(&mut self) {
        let steps = self.run.draw(|rng| rng.random_range(10..40));
        for _ in 0..steps {
            if !self.run.instance.stage.auditor.violations().is_empty() {
                return;
            }
            self.step().await;
            let wait = self.run.draw(|rng| match rng.random_range(0..10) {
                0..3 => 0,
                3..8 => rng.random_range(0..5_000),
                8 => rng.random_range(0..60_000),
                _ => rng.random_range(0..600_000),
            });
            self.run.instance.sleep(Duration::from_millis(wait)).await;
        }
    }

    async fn step(&mut self) {
        let choice = self.run.draw(|rng| rng.random_range(0..100));
        let has = |kind| self.run.has(kind);
        match choice {
            36..40 if has(FaultKind::Purged) => self.purge().await,
            0..40 => self.ingest().await,
            40..52 => {
                let (_, table) = self.any_table();
                self.export(&table).await;
            }
            52..56 => self.bad_job().await,
            56..64 if has(FaultKind::SentAgain) => self.send_again().await,
            64..70 if has(FaultKind::Kill) => self.to_process(|control| control.kill()),
            70..74 if has(FaultKind::Pause) => {
                let time = self.run.draw(|rng| rng.random_range(5..400));
                self.to_process(|control| control.pause(Duration::from_secs(time)));
            }
            74..77 if has(FaultKind::Terminate) => self.to_process(|control| control.stop.cancel()),
            77..80 if has(FaultKind::Redrive) => self.redrive().await,
            80..83 if has(FaultKind::TableDropped) => self.drop_and_create().await,
            83..85 if has(FaultKind::TableCleared) => self.clear().await,
            97..99 if has(FaultKind::TableCleared) => self.restore().await,
            85..90 if has(FaultKind::Split) => self.split().await,
            90..94 if has(FaultKind::SnapshotDamaged) => self.damage_snapshot().await,
            94..97 if has(FaultKind::ClockJump) => self.leap(),
            _ => {}
        }
    }

    fn to_process(&self, act: impl FnOnce(&Control)) {
        let processes = self.run.instance.processes();
        if let Some(control) = self.run.draw(|rng| processes.choose(rng).cloned()) {
            self.note(format_args!("process {} is hit", control.number));
            act(&control);
        }
    }

    async fn ingest(&mut self) {
        let (name, table) = self.any_table();
        let number = self.number();
        let (files, rows, without_id) = self.run.draw(|rng| {
            let files = *[1, 1, 2, 3].choose(rng).unwrap_or(&1);
            let most = if rng.random_bool(0.1) { 400 } else { 12 };
            (files, rng.random_range(0..=most), rng.random_bool(0.1))
        });
        let job = format!("job-{number:03}");
        let keys: Vec<i64> = self
            .run
            .draw(|rng| (0..rows).map(|_| rng.random_range(0..KEYS)).collect());
        let rows: Vec<Row> = keys
            .into_iter()
            .enumerate()
            .map(|(i, key)| (key, format!("{job}/{i}")))
            .collect();
        self.run.instance.input(&job, &rows, files).await;
        let by_id = self.run.draw(|rng| rng.random_bool(0.2));
        let target = match by_id {
            true => format!(r#""tableId":"{}""#, table.id),
            false => format!(r#""tableName":"{name}""#),
        };
        let rows = Arc::new(rows);
        let sent = Sent {
            table: name,
            good: true,
        };
        if without_id {
            let body = format!(r#"{{{target},"files":["{INPUTS}/{job}"]}}"#);
            let job = JobId::new(self.send(QueueName::Ingest, body).await).unwrap();
            // A body that is sent again is another job.
            self.bodies.pop();
            self.run.instance.stage.auditor.promise(job.clone(), rows);
            self.expected.jobs.insert(job, sent);
        } else {
            let id = JobId::new(&job).unwrap();
            self.run.instance.stage.auditor.promise(id.clone(), rows);
            self.expected.jobs.insert(id, sent);
            let body = format!(r#"{{"id":"{job}",{target},"files":["{INPUTS}/{job}"]}}"#);
            self.send(QueueName::Ingest, body).await;
        }
    }

    async fn bad_job(&mut self) {
        let (name, _) = self.any_table();
        let number = self.number();
        let job = format!("job-{number:03}");
        let body = match self.run.draw(|rng| rng.random_range(0..6)) {
            0 => format!(r#"{{"id":"{job}","tableName":"{name}","files":["{INPUTS}/nothing"]}}"#),
            1 => format!(r#"{{"id":"{job}","tableName":"no-table","files":["{INPUTS}/nothing"]}}"#),
            2 => format!(r#"{{"id":"{job}","tableName":"{name}","files":[]}}"#),
            3 => {
                self.run
                    .instance
                    .input(&job, &[(1, "not alone".to_owned())], 1)
                    .await;
                format!(
                    r#"{{"id":"{job}","tableName":"{name}","files":["{INPUTS}/{job}","{INPUTS}/nothing"]}}"#
                )
            }
            4 => {
                let path = Path::from(format!("{job}.parquet"));
                let inputs = self.run.instance.storage.bucket(INPUTS);
                inputs.put(&path, "not rows".into()).await.unwrap();
                format!(r#"{{"id":"{job}","tableName":"{name}","files":["{INPUTS}/{job}.parquet"]}}"#)
            }
            _ => {
                let id = self
                    .send(QueueName::Ingest, "{ this is no message".to_owned())
                    .await;
                self.bodies.pop();
                self.expected.jobs.insert(
                    JobId::new(id).unwrap(),
                    Sent {
                        table: name,
                        good: false,
                    },
                );
                return;
            }
        };
        self.expected.jobs.insert(
            JobId::new(&job).unwrap(),
            Sent {
                table: name,
                good: false,
            },
        );
        self.send(QueueName::Ingest, body).await;
    }

    async fn export(&mut self, table: &TableInfo) {
        let export = format!("export-{:03}", self.number());
        self.expected.exports.insert(export.clone(), table.id.clone());
        let body = format!(r#"{{"tableId":"{}","exportId":"{export}"}}"#, table.id);
        self.send(QueueName::Export, body).await;
    }

    async fn send_again(&mut self) {
        let Some((queue, body)) = self.run.draw(|rng| self.bodies.choose(rng).cloned()) else {
            return;
        };
        let copies = self.run.draw(|rng| rng.random_range(1..=3));
        for _ in 0..copies {
            self.run.instance.send(queue, body.clone()).await;
        }
    }

    /// Sends all dead letters again.
    pub(super) async fn redrive(&mut self) {
        for name in QueueName::ALL {
            let queue = self.run.instance.storage.queue(name);
            for letter in queue.dead_letters(1000).await.unwrap() {
                let job = IngestMessage::id_of(&letter.body);
                if job.is_some_and(|job| !self.run.instance.stage.auditor.committed(&job).is_empty()) {
                    self.count("dead letter of a committed job sent again");
                }
            }
            let moved = queue.redrive(None).await.unwrap();
            self.note(format_args!("{moved} dead letters of {name} sent again"));
        }
    }

    async fn drop_and_create(&mut self) {
        let (name, table) = self.any_table();
        for queue in QueueName::ALL {
            if self.run.instance.storage.waiting(queue).await > 0 {
                self.count("table dropped with jobs under way");
                break;
            }
        }
        self.run
            .instance
            .operator
            .tables
            .delete(&table.name)
            .await
            .unwrap();
        self.expected.dropped.push(name.clone());
        self.create(&name).await;
    }

    async fn commit(&mut self, table: &TableId, what: &str, record: Record) {
        let id = CommitId::new(format!("{what}/{}", self.number()));
        let states = &self.run.instance.operator.states;
        states.commit(table, Commit::new(id, record)).await.unwrap();
    }

    /// Clears a table, now and then while an export reads it.
    async fn clear(&mut self) {
        let (_, table) = self.any_table();
        if self.run.draw(|rng| rng.random_bool(0.5)) {
            self.export(&table).await;
            let wait = self.run.draw(|rng| rng.random_range(0..5_000));
            self.run.instance.sleep(Duration::from_millis(wait)).await;
        }
        let state = self.run.instance.operator.states.state(&table.id).await.unwrap();
        if state.pins().next().is_some() {
            self.count("table cleared while an export was open");
        }
        self.commit(&table.id, "clear", Record::TableCleared).await;
    }

    /// Makes a past state current, if its files are still there.
    async fn restore(&mut self) {
        let (_, table) = self.any_table();
        let states = &self.run.instance.operator.states;
        let state = states.state(&table.id).await.unwrap();
        let (oldest, newest) = (state.oldest_readable().0, state.transaction().0);
        let number = self.run.draw(|rng| rng.random_range(oldest..=newest.max(oldest)));
        let as_of = AsOf::Transaction(TransactionNumber(number));
        // Other states may be the oldest by now.
        let Ok(past) = states.state_as_of(&table.id, as_of).await else {
            return;
        };
        let record = Record::TableRestored {
            of: past.transaction(),
            files: past.to_restore(),
        };
        self.commit(&table.id, "restore", record).await;
    }

    /// Purges the rows of a job, and now and then gives up half-way.
    async fn purge(&mut self) {
        let (_, table) = self.any_table();
        let jobs = self.run.instance.stage.auditor.jobs(&table.id);
        let Some(job) = self.run.draw(|rng| jobs.choose(rng).cloned()) else {
            return;
        };
        let Some(rows) = self.run.instance.stage.auditor.promised(&job) else {
            return;
        };
        let Some(name) = rows.first().and_then(|row| row.1.split('/').next()) else {
            return;
        };
        let predicate = Predicate::new(format!("payload LIKE '{name}/%'")).unwrap();
        let rounds = self.run.draw(|rng| rng.random_range(1..6));
        let pending = Purged {
            table,
            job,
            predicate,
        };
        if self.purge_rounds(&pending, rounds).await {
            self.count("purge came to its end");
        } else {
            self.purges.push(pending);
        }
    }

    /// Whether the purge came to its end.
    async fn purge_rounds(&self, purged: &Purged, rounds: usize) -> bool {
        let Purged {
            table,
            job,
            predicate,
        } = purged;
        let (instance, auditor) = (&self.run.instance, &self.run.instance.stage.auditor);
        self.note(format_args!("the rows of {job} are purged from {}", table.id));
        auditor.purge_begins(&table.id, job);
        let mut purge = Purge::begin(&instance.operator, table, predicate.clone())
            .await
            .unwrap();
        for _ in 0..rounds {
            // Files of a state that is no longer the newest may be gone.
            let Ok(round) = purge.round().await else {
                return false;
            };
            if round.is_last() {
                auditor.purge_ended(&table.id, job, round.transaction);
                return true;
            }
            if round.busy > 0 {
                self.count("purge met files that others had leased");
            }
            instance.sleep(Duration::from_secs(20)).await;
        }
        false
    }

    /// Brings purges to their end that were given up.
    pub(super) async fn end_purges(&mut self) {
        for purged in std::mem::take(&mut self.purges) {
            if !self
                .expected
                .tables
                .values()
                .any(|table| table.id == purged.table.id)
            {
                continue;
            }
            let mut tries = 0;
            while !self.purge_rounds(&purged, 3).await {
                tries += 1;
                if tries > 20 {
                    let text = format!("Liveness: the purge of {} does not end", purged.job);
                    self.run.instance.stage.auditor.violation(text);
                    return;
                }
                // Leases run out.
                self.run.instance.leap(Duration::from_secs(3600));
                self.run.instance.drained("after a purge").await;
            }
        }
    }

    async fn split(&mut self) {
        let (_, table) = self.any_table();
        let at = self.run.draw(|rng| rng.random_range(1..KEYS));
        let at = self.run.instance.rows.key(at);
        let state = self.run.instance.operator.states.state(&table.id).await.unwrap();
        let Some(leaf) = state.leaves().find(|leaf| leaf.bounds.contains(&at)) else {
            return;
        };
        if leaf.bounds.lower.as_ref() == Some(&at) {
            return;
        }
        if state.pins().next().is_some() {
            self.count("split while an export was open");
        }
        let number = self.number();
        let split = Split {
            partition: leaf.id.clone(),
            left: PartitionId::new(format!("s{number}-l")).unwrap(),
            right: PartitionId::new(format!("s{number}-r")).unwrap(),
            at,
        };
        self.commit(&table.id, "split", Record::PartitionSplit(split))
            .await;
    }

    /// Flips a byte of the newest snapshot.
    async fn damage_snapshot(&mut self) {
        let (_, table) = self.any_table();
        let snapshots = self
            .run
            .instance
            .operator
            .states
            .snapshots(&table.id)
            .await
            .unwrap();
        let Some(newest) = snapshots.first().filter(|_| snapshots.len() > 1) else {
            return;
        };
        let data = self.run.instance.storage.bucket("data");
        let mut body = data
            .get(&newest.path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .to_vec();
        let at = self.run.draw(|rng| rng.random_range(0..body.len()));
        body[at] ^= 1 << (at % 8);
        data.put(&newest.path, body.into()).await.unwrap();
        self.count("snapshot was damaged");
        self.expected.damaged = true;
    }

    fn leap(&mut self) {
        let seconds = self.run.draw(|rng| match rng.random_range(0..3) {
            0 => rng.random_range(-300..300),
            1 => rng.random_range(0..7200),
            _ => rng.random_range(0..30 * 3600),
        });
        self.expected.leapt |= seconds > 3600;
        self.note(format_args!("clocks leap by {seconds} s"));
        self.run.instance.stage.clock.jump(seconds * 1000);
    }

    /// Lets days or weeks pass, then delivers every message once more.
    pub(super) async fn age(&mut self) {
        let days = self.run.draw(|rng| rng.random_range(0..=40));
        self.note(format_args!("{days} days pass"));
        self.run.instance.stage.clock.jump(days * 24 * 3600 * 1000);
        self.expected.leapt = true;
        self.expected.aged = true;
        for queue in QueueName::ALL {
            let copies = self.run.instance.storage.deliver_again(queue);
            if copies > 0 && days > 35 {
                self.count("copy of a message came after the ledger's time");
            }
        }
    }
}
