//! Making and checking an instance's parts.

use dormouse_aws::setup::{self, Check};
use dormouse_core::{collections::Collection, config::InstanceSettings, ports::QueueName};

use crate::emulators::{Emulators, settings};

/// Three buckets, a table for each collection, and two queues for each queue.
const PARTS: usize = 3 + Collection::ALL.len() + 2 * QueueName::ALL.len();

async fn check(emulators: &Emulators, settings: &InstanceSettings) -> Check {
    let location = emulators.location();
    let check = setup::check(&location, settings).await;
    check.unwrap_or_else(|error| panic!("{}", error.report()))
}

fn problems(check: &Check) -> Vec<String> {
    let text = |finding: &setup::Finding| format!("{} {}: {}", finding.kind, finding.name, finding.problem);
    check.findings.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_made_once_and_found_sound() {
    let emulators = Emulators::start().await;
    let settings = InstanceSettings::default();
    let nothing = check(&emulators, &settings).await;
    assert_eq!(
        nothing.findings.len(),
        PARTS - QueueName::ALL.len(),
        "{:?}",
        problems(&nothing)
    );
    let (location, buckets) = emulators.instance(&settings).await;
    let sound = check(&emulators, &settings).await;
    assert_eq!((sound.parts, problems(&sound)), (PARTS, vec![]));
    let again = setup::init(&location, &settings, &buckets)
        .await
        .expect("a second init");
    assert_eq!(again.len(), PARTS + 1);
    assert!(again.iter().all(|part| !part.made), "{again:?}");
    let text = location
        .properties(&buckets)
        .await
        .expect("properties")
        .expect("an object");
    let read = InstanceSettings::read(&text, []).expect("properties that can be read");
    assert_eq!(
        read.data_bucket().expect("a name").expect("a bucket").as_str(),
        "dormouse-test-table-data-000000000000"
    );
    assert_eq!(problems(&check(&emulators, &read).await), Vec::<String>::new());
    // A queue by its URL is the same.
    assert!(location.queue(QueueName::Ingest, &read).contains("://"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_from_the_properties_is_told() {
    let emulators = Emulators::start().await;
    emulators
        .instance(&settings(
            "queue.visibility.timeout.seconds=30\nqueue.max.attempts=5",
        ))
        .await;
    let other = settings("queue.visibility.timeout.seconds=900\nqueue.max.attempts=3");
    let found = problems(&check(&emulators, &other).await);
    assert_eq!(found.len(), 2 * QueueName::ALL.len(), "{found:?}");
    assert!(
        found
            .iter()
            .any(|text| text.contains("queue dormouse-test-ingest: its visibility timeout is 30 s"))
    );
    assert!(
        found
            .iter()
            .any(|text| text.contains("dormouse-test-commit.fifo: it delivers a message 5 times"))
    );
}
