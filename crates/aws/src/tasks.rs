//! Worker processes as tasks of ECS: those of a queue are of one family of task definitions.

use async_trait::async_trait;
use aws_sdk_ecs::{
    Client,
    types::{AssignPublicIp, AwsVpcConfiguration, DesiredStatus, NetworkConfiguration},
};
use dormouse_core::{
    Error, Result,
    ports::{QueueName, task_launcher::TaskLauncher},
};

use crate::{clients::Clients, error::from_sdk, names::Names};

/// The most tasks that one call starts.
const TASKS_A_CALL: u64 = 10;

/// Where tasks run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcsPlace {
    /// The cluster.
    pub cluster: String,
    /// The subnets; none for tasks on the network of their host.
    pub subnets: Vec<String>,
    /// The security groups; none for the VPC's own.
    pub security_groups: Vec<String>,
    /// Whether tasks have public addresses, which they need in subnets without a NAT gateway.
    pub public_ip: bool,
}

/// [`TaskLauncher`] on ECS. The cluster's default capacity providers decide what tasks run on.
#[derive(Debug)]
pub struct EcsTaskLauncher {
    client: Client,
    names: Names,
    place: EcsPlace,
}

impl EcsTaskLauncher {
    /// A launcher of the instance's tasks.
    pub fn new(clients: &Clients, names: Names, place: EcsPlace) -> Self {
        Self {
            client: clients.ecs.clone(),
            names,
            place,
        }
    }

    fn network(&self) -> Result<Option<NetworkConfiguration>> {
        if self.place.subnets.is_empty() {
            return Ok(None);
        }
        let public = match self.place.public_ip {
            true => AssignPublicIp::Enabled,
            false => AssignPublicIp::Disabled,
        };
        let vpc = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.place.subnets.clone()))
            .set_security_groups(Some(self.place.security_groups.clone()).filter(|groups| !groups.is_empty()))
            .assign_public_ip(public)
            .build()
            .map_err(|error| Error::internal("a network configuration cannot be built").with_source(error))?;
        Ok(Some(
            NetworkConfiguration::builder().awsvpc_configuration(vpc).build(),
        ))
    }
}

#[async_trait]
impl TaskLauncher for EcsTaskLauncher {
    async fn running(&self, queue: QueueName) -> Result<u64> {
        let mut count = 0;
        let mut pages = self
            .client
            .list_tasks()
            .cluster(&self.place.cluster)
            .family(self.names.task_family(queue))
            // Tasks that are about to run are of this status too.
            .desired_status(DesiredStatus::Running)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| from_sdk("listing tasks", error))?;
            count += page.task_arns().len() as u64;
        }
        Ok(count)
    }

    async fn launch(&self, queue: QueueName, count: u64) -> Result<u64> {
        let mut launched = 0;
        while launched < count {
            let wanted = (count - launched).min(TASKS_A_CALL);
            let answer = self
                .client
                .run_task()
                .cluster(&self.place.cluster)
                .task_definition(self.names.task_family(queue))
                .count(i32::try_from(wanted).unwrap_or(1))
                .set_network_configuration(self.network()?)
                .started_by(format!("dormouse-{}", self.names.instance()))
                .send()
                .await
                .map_err(|error| from_sdk("starting tasks", error))?;
            let started = answer.tasks().len() as u64;
            launched += started;
            if started < wanted {
                let reasons: Vec<_> = answer
                    .failures()
                    .iter()
                    .filter_map(|failure| failure.reason())
                    .collect();
                tracing::warn!(%queue, wanted, started, ?reasons, "not all tasks started");
                break;
            }
        }
        Ok(launched)
    }
}
