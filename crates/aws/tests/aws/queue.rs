//! What others see of a queue, and what SQS' failures become.

use std::{sync::Arc, time::Duration};

use dormouse_aws::{BucketPart, Names, queue::SqsQueue};
use dormouse_core::{
    ErrorKind,
    config::InstanceSettings,
    ports::{Bucket, Buckets, Message, Queue, QueueName, SystemIds},
};
use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::{
    emulators::{Emulators, clock},
    proxy::{Fault, Proxy},
};

struct Made {
    emulators: Emulators,
    proxy: Proxy,
    bodies: Arc<dyn ObjectStore>,
}

impl Made {
    async fn new() -> Self {
        let emulators = Emulators::start().await;
        let settings = InstanceSettings::default();
        let (location, buckets) = emulators.instance(&settings).await;
        let name = location
            .bucket(BucketPart::TableData, &settings)
            .await
            .expect("a name");
        let bodies = buckets.open(&Bucket::Named(name)).expect("a bucket");
        let proxy = Proxy::start(&emulators.url()).await;
        Self {
            emulators,
            proxy,
            bodies,
        }
    }

    async fn open(&self, name: QueueName) -> SqsQueue {
        let clients = self
            .emulators
            .clients_at(&self.proxy.url(), &self.emulators.dynamodb_url());
        let queue = Names::new("test").expect("names").queue(name);
        let opened = SqsQueue::open(
            &clients,
            name,
            &queue,
            self.bodies.clone(),
            clock(),
            Arc::new(SystemIds),
        );
        opened.await.unwrap_or_else(|error| panic!("{}", error.report()))
    }

    async fn stored_bodies(&self) -> usize {
        let prefix = object_store::path::Path::from("messages");
        self.bodies
            .list(Some(&prefix))
            .try_collect::<Vec<_>>()
            .await
            .expect("a listing")
            .len()
    }
}

const WAIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_as_long_as_a_message_may_be_survives_dead_letters_and_back() {
    let made = Made::new().await;
    let queue = made.open(QueueName::Ingest).await;
    let body = "x".repeat(dormouse_core::ports::queue::MAX_BODY_BYTES);
    let ids = queue.send(vec![Message::new(body.clone())]).await.unwrap();
    assert_eq!(
        made.stored_bodies().await,
        0,
        "a body that fits is in the message"
    );
    let delivery = queue.receive(1, WAIT).await.unwrap().remove(0);
    queue.dead_letter(&delivery.receipt).await.unwrap();
    assert_eq!(made.stored_bodies().await, 1, "with attributes it is too long");
    let letters = queue.dead_letters(10).await.unwrap();
    assert!(letters[0].body == body && letters[0].message_id == ids[0]);
    assert_eq!(queue.redrive(None).await.unwrap(), 1);
    let again = queue.receive(1, WAIT).await.unwrap().remove(0);
    assert!(again.body == body);
    assert_eq!(
        (again.message_id, again.attempt, again.sent_at),
        (ids[0].clone(), 1, delivery.sent_at)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_a_batch_that_failed_are_sent_again_and_the_others_are_not() {
    let made = Made::new().await;
    let queue = made.open(QueueName::Ingest).await;
    let partly = "{\"Successful\":[{\"Id\":\"0\",\"MessageId\":\"made-up\",\"MD5OfMessageBody\":\"0cc175b9c0f1b6a831c399e269772661\"}],\
        \"Failed\":[{\"Id\":\"1\",\"Code\":\"InternalError\",\"SenderFault\":false,\"Message\":\"told\"}]}";
    made.proxy
        .next("SendMessageBatch", Fault::Answer(200, partly.to_owned()));
    let ids = queue
        .send(vec![Message::new("a"), Message::new("b")])
        .await
        .unwrap();
    assert_eq!(ids[0], "made-up");
    let sent = made.proxy.seen("SendMessageBatch");
    assert_eq!(sent.len(), 2);
    assert!(
        !sent[1].contains("\"Id\":\"0\"") && sent[1].contains("\"Id\":\"1\""),
        "{}",
        sent[1]
    );
    let delivery = queue.receive(10, WAIT).await.unwrap();
    assert_eq!(
        (delivery.len(), delivery[0].message_id.as_str()),
        (1, ids[1].as_str())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_whose_answer_was_lost_is_made_again() {
    let made = Made::new().await;
    let queue = made.open(QueueName::Ingest).await;
    queue.send(vec![Message::new("a")]).await.unwrap();
    let delivery = queue.receive(1, WAIT).await.unwrap().remove(0);
    made.proxy.next("DeleteMessageBatch", Fault::LoseReply);
    queue.ack(&delivery.receipt).await.unwrap();
    assert_eq!(made.proxy.left(), 0);
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.hidden), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_that_gather_go_together() {
    let made = Made::new().await;
    let queue = made.open(QueueName::Ingest).await;
    queue
        .send((0..30).map(|n| Message::new(n.to_string())).collect())
        .await
        .unwrap();
    let mut deliveries = Vec::new();
    while deliveries.len() < 30 {
        deliveries.extend(queue.receive(10, WAIT).await.unwrap());
    }
    let acks = deliveries.iter().map(|delivery| queue.ack(&delivery.receipt));
    futures::future::try_join_all(acks).await.unwrap();
    let calls = made.proxy.seen("AmazonSQS.DeleteMessageBatch").len();
    assert!(calls <= 4, "30 acknowledgements took {calls} calls");
    assert_eq!(queue.depth().await.unwrap().hidden, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_commit_sent_twice_comes_once() {
    let made = Made::new().await;
    let queue = made.open(QueueName::Commit).await;
    let message = |id: &str| Message {
        group: Some("table".to_owned()),
        deduplication_id: Some(id.to_owned()),
        ..Message::new(id)
    };
    made.proxy.next("SendMessageBatch", Fault::LoseReply);
    queue.send(vec![message("commit-1")]).await.unwrap();
    queue
        .send(vec![message("commit-1"), message("commit-2")])
        .await
        .unwrap();
    let deliveries = queue.receive(10, WAIT).await.unwrap();
    let bodies: Vec<_> = deliveries.iter().map(|delivery| delivery.body.as_str()).collect();
    assert_eq!(bodies, ["commit-1", "commit-2"]);
    for delivery in &deliveries {
        queue.dead_letter(&delivery.receipt).await.unwrap();
    }
    assert_eq!(
        queue.redrive(None).await.unwrap(),
        2,
        "a redrive is no repetition"
    );
    assert_eq!(queue.receive(10, WAIT).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_answer_is_unavailable() {
    let made = Made::new().await;
    let queue = made.open(QueueName::Ingest).await;
    for _ in 0..10 {
        made.proxy
            .next("AmazonSQS.SendMessageBatch", Fault::Answer(503, "{}".to_owned()));
    }
    let error = queue.send(vec![Message::new("a")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_not_there_is_told_with_what_to_do() {
    let emulators = Emulators::start().await;
    let clients = emulators.clients();
    let bodies: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let opened = SqsQueue::open(
        &clients,
        QueueName::Ingest,
        "dormouse-test-ingest",
        bodies,
        clock(),
        Arc::new(SystemIds),
    );
    let error = opened.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.report().contains("dormouse instance check"),
        "{}",
        error.report()
    );
}
