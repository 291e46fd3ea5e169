//! `dormouse files`.

use dormouse_core::{Result, file::Checksum, ids::FileName, key::KeyRange, message::export::parse_as_of};
use serde::Serialize;

use super::Context;
use crate::{
    args::FilesArgs,
    printer::{self, Column},
};

#[derive(Serialize)]
struct Row {
    file: FileName,
    leaves: u32,
    rows: u64,
    bytes: u64,
    keys: Option<KeyRange>,
    crc64_nvme: Checksum,
}

pub(super) async fn run(context: &Context, args: &FilesArgs) -> Result<()> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let as_of = args.as_of.as_deref().map(parse_as_of).transpose()?;
    let state = services.states.state_at(&table.id, as_of).await?;
    let mut rows: Vec<Row> = state
        .files()
        .map(|(file, leaves)| Row {
            file: file.name.clone(),
            leaves,
            rows: file.rows,
            bytes: file.bytes,
            keys: file
                .parts
                .first()
                .zip(file.parts.last())
                .map(|(first, last)| first.range.union(&last.range)),
            crc64_nvme: file.checksum,
        })
        .collect();
    rows.sort_by(|a, b| {
        a.keys
            .as_ref()
            .map(|keys| &keys.min)
            .cmp(&b.keys.as_ref().map(|keys| &keys.min))
    });
    let columns = [
        Column::Left("file"),
        Column::Right("leaves"),
        Column::Right("rows"),
        Column::Right("size"),
        Column::Left("keys"),
    ];
    let row = |row: &Row| {
        vec![
            row.file.to_string(),
            row.leaves.to_string(),
            printer::count(row.rows),
            printer::bytes(row.bytes),
            row.keys
                .as_ref()
                .map(|keys| format!("{} to {}", keys.min, keys.max))
                .unwrap_or_default(),
        ]
    };
    context
        .printer
        .list(&rows, &columns, row, "the table has no files")
}
