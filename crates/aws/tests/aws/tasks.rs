//! Tasks of ECS. The emulator records tasks and runs none.

use aws_sdk_ecs::types::{ContainerDefinition, NetworkMode};
use dormouse_aws::instance::task_launcher;
use dormouse_core::ports::{QueueName, TaskLauncher};

use crate::emulators::{Emulators, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_queue_are_started_and_counted() {
    let emulators = Emulators::start().await;
    let ecs = aws_sdk_ecs::Client::new(&Emulators::config(&emulators.url()));
    ecs.create_cluster()
        .cluster_name("workers")
        .send()
        .await
        .expect("a cluster");
    for queue in ["ingest", "compaction"] {
        let container = ContainerDefinition::builder()
            .name("worker")
            .image("dormouse")
            .memory(64)
            .build();
        ecs.register_task_definition()
            .family(format!("dormouse-test-{queue}"))
            .network_mode(NetworkMode::Bridge)
            .container_definitions(container)
            .send()
            .await
            .expect("a task definition");
    }
    let launcher =
        task_launcher(&emulators.location(), &settings("ecs.cluster=workers")).expect("a launcher");
    assert_eq!(launcher.running(QueueName::Ingest).await.expect("a count"), 0);
    assert_eq!(
        launcher.launch(QueueName::Ingest, 13).await.expect("a launch"),
        13
    );
    assert_eq!(launcher.running(QueueName::Ingest).await.expect("a count"), 13);
    assert_eq!(launcher.running(QueueName::Compaction).await.expect("a count"), 0);
}

#[tokio::test]
async fn without_a_cluster_nothing_can_be_started() {
    let emulators = Emulators::start().await;
    let error = task_launcher(&emulators.location(), &settings("")).unwrap_err();
    assert!(error.to_string().contains("dormouse.ecs.cluster"), "{error}");
}
