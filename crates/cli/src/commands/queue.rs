//! `dormouse queue`.

use std::io::Read;

use dormouse_core::{
    Error, Result,
    ports::{Message, QueueDepth, QueueName, StoredMessage},
};
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::{args::QueueCommand, printer::Column};

#[derive(Serialize)]
struct Depth {
    queue: QueueName,
    #[serde(flatten)]
    depth: QueueDepth,
}

pub(super) async fn run(context: &Context, command: QueueCommand) -> Result<()> {
    let services = &context.instance.services;
    match command {
        QueueCommand::Send { queue, body } => {
            let body = if body == "-" { read_body()? } else { body };
            let ids = services.queue(queue)?.send(vec![Message::new(body)]).await?;
            context
                .printer
                .value(&json!({ "messageId": ids.first() }), |_| ids.join("\n"))
        }
        QueueCommand::List => {
            let mut depths = Vec::new();
            for queue in QueueName::ALL {
                depths.push(Depth {
                    queue,
                    depth: services.queue(queue)?.depth().await?,
                });
            }
            let columns = [
                Column::Left("queue"),
                Column::Right("visible"),
                Column::Right("hidden"),
                Column::Right("dead letters"),
            ];
            let row = |row: &Depth| {
                let depth = row.depth;
                let numbers = [depth.visible, depth.hidden, depth.dead].map(|number| number.to_string());
                std::iter::once(row.queue.to_string()).chain(numbers).collect()
            };
            context.printer.list(&depths, &columns, row, "no queues")
        }
        QueueCommand::Peek { queue, limit } => print_messages(
            context,
            &services.queue(queue)?.peek(limit).await?,
            "the queue is empty",
        ),
        QueueCommand::DeadLetters { queue, limit } => {
            let letters = services.queue(queue)?.dead_letters(limit).await?;
            print_messages(context, &letters, "no dead letters")
        }
        QueueCommand::Retry { queue, ids } => {
            let ids = Some(ids).filter(|ids| !ids.is_empty());
            let moved = services.queue(queue)?.redrive(ids.as_deref()).await?;
            if let Some(ids) = ids.filter(|ids| moved < ids.len() as u64) {
                return Err(Error::not_found(format!(
                    "{moved} of {} messages were among the dead letters of queue {queue}",
                    ids.len()
                )));
            }
            context.printer.value(&json!({ "moved": moved }), |_| {
                format!("{moved} messages moved back")
            })
        }
    }
}

fn read_body() -> Result<String> {
    let mut body = String::new();
    std::io::stdin()
        .read_to_string(&mut body)
        .map_err(|error| Error::invalid("standard input is not text").with_source(error))?;
    Ok(body.trim_end_matches(['\n', '\r']).to_owned())
}

fn print_messages(context: &Context, messages: &[StoredMessage], empty: &str) -> Result<()> {
    let columns = [
        Column::Left("message"),
        Column::Left("sent"),
        Column::Right("deliveries"),
        Column::Left("body"),
    ];
    let row = |message: &StoredMessage| {
        vec![
            message.message_id.clone(),
            message.sent_at.to_string(),
            message.attempts.to_string(),
            message.body.clone(),
        ]
    };
    context.printer.list(messages, &columns, row, empty)
}
