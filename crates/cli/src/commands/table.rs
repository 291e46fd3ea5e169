//! `dormouse table`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use dormouse_core::{
    Error, Result,
    ids::TableName,
    message::{Location, export::parse_as_of},
    ports::InputObject,
    schema::{Schema, from_sleeper_json},
    tables::TableInfo,
};
use dormouse_jobs::{import, restore};
use object_store::ObjectStoreExt;
use serde::Serialize;

use super::Context;
use crate::{
    args::{TableCommand, TableCreateArgs},
    key_text::parse_key,
    printer::{self, Column},
};

pub(super) async fn run(context: &Context, command: TableCommand) -> Result<()> {
    let tables = &context.instance.services.tables;
    match command {
        TableCommand::Create(args) => {
            let info = create(context, args).await?;
            print(context, &info, "made")
        }
        TableCommand::List => list(context).await,
        TableCommand::Describe { table } => describe(context, &tables.named(&table).await?).await,
        TableCommand::Delete { table, yes } => {
            let info = tables.named(&table).await?;
            if !yes && !confirmed(&format!("delete table \"{}\" and all its rows?", info.name))? {
                return Err(Error::invalid("not confirmed; --yes deletes without asking"));
            }
            print(context, &tables.delete(&table).await?, "deleted")
        }
        TableCommand::Set { table, properties } => {
            let services = &context.instance.services;
            let info = services
                .set_properties(&table, parse_properties(&properties)?)
                .await?;
            print(context, &info, "changed")
        }
        TableCommand::Restore { table, as_of, yes } => restore(context, &table, &as_of, yes).await,
        TableCommand::ImportExport {
            table,
            export,
            properties,
        } => import_export(context, table, &export, &properties).await,
        TableCommand::Rename { table, to } => print(context, &tables.rename(&table, &to).await?, "renamed"),
        TableCommand::Online { table } => print(context, &tables.set_online(&table, true).await?, "online"),
        TableCommand::Offline { table } => {
            print(context, &tables.set_online(&table, false).await?, "offline")
        }
    }
}

async fn restore(context: &Context, name: &TableName, as_of: &str, yes: bool) -> Result<()> {
    let services = &context.instance.services;
    let as_of = parse_as_of(as_of)?;
    let info = services.tables.named(name).await?;
    if !yes && !confirmed(&format!("make a past state of table \"{}\" current?", info.name))? {
        return Err(Error::invalid("not confirmed; --yes restores without asking"));
    }
    let restored = restore::restore(services, &info, as_of).await?;
    context.printer.value(&restored, |restored| {
        format!(
            "table \"{name}\" is as it was at transaction {} ({}): {} rows in {} files, {} rows before\n\
             transaction {} did it; --as-of {} is what was there",
            restored.of,
            restored.as_of,
            printer::count(restored.rows),
            printer::count(restored.files),
            printer::count(restored.rows_before),
            restored.transaction,
            restored.transaction.0.saturating_sub(1),
        )
    })
}

async fn import_export(
    context: &Context,
    name: TableName,
    export: &str,
    properties: &[String],
) -> Result<()> {
    let directory = Path::new(export);
    let location: Location = if directory.is_dir() || export.starts_with(['/', '.']) {
        let absolute = std::fs::canonicalize(directory)
            .map_err(|error| Error::invalid(format!("cannot find {export}")).with_source(error))?;
        format!("file://{}", absolute.display()).parse()?
    } else {
        export.parse()?
    };
    let services = &context.instance.services;
    let properties = parse_properties(properties)?;
    let imported = import::import_export(services, name, &location, properties, Arc::default()).await?;
    context.printer.value(&imported, |imported| {
        format!(
            "table \"{}\" with id {} made from {location}: {} rows in {} files, {} leaves",
            imported.table.name,
            imported.table.id,
            printer::count(imported.rows),
            printer::count(imported.files),
            printer::count(imported.leaves),
        )
    })
}

fn parse_properties(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let parsed = pairs.iter().map(|pair| {
        pair.split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .ok_or_else(|| Error::invalid(format!("--set {pair} must be KEY=VALUE")))
    });
    parsed.collect()
}

fn print(context: &Context, info: &TableInfo, done: &str) -> Result<()> {
    context.printer.value(info, |info| {
        format!("table \"{}\" with id {} {done}", info.name, info.id)
    })
}

pub(super) fn confirmed(question: &str) -> Result<bool> {
    printer::note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Error::invalid("cannot read the answer").with_source(error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn create(context: &Context, args: TableCreateArgs) -> Result<TableInfo> {
    let services = &context.instance.services;
    let schema = match (&args.schema, &args.from_parquet) {
        (Some(path), _) => from_sleeper_json(&read(path)?)
            .map_err(|error| error.context(format!("{} is not a schema", path.display())))?,
        (None, Some(path)) => schema_of_parquet(context, path, &args.row_key, &args.sort_key).await?,
        (None, None) => return Err(Error::invalid("a table needs --schema or --from-parquet")),
    };
    let points = match &args.split_points {
        Some(path) => read(path)?
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| {
                parse_key(&schema, line.trim()).map_err(|error| {
                    error.context(format!(
                        "line {} of {} is not a split point",
                        number + 1,
                        path.display()
                    ))
                })
            })
            .collect::<Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    let properties = parse_properties(&args.properties)?;
    services
        .create_table(args.name, Arc::new(schema), &points, properties)
        .await
        .map_err(|error| match error.kind() {
            dormouse_core::ErrorKind::Internal => error.context("the table was not made"),
            _ => error,
        })
        .inspect(|info| tracing::debug!(table = %info.id, data = ?services.data, "table made"))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("cannot read {}", path.display())).with_source(error))
}

/// The schema of a Parquet file of this machine.
pub(super) async fn schema_of_parquet(
    context: &Context,
    path: &Path,
    row_key: &[String],
    sort_key: &[String],
) -> Result<Schema> {
    let absolute = std::fs::canonicalize(path)
        .map_err(|error| Error::invalid(format!("cannot find {}", path.display())).with_source(error))?;
    let location: Location = format!("file://{}", absolute.display()).parse()?;
    let store = dormouse_local::objects::own_files()?;
    let meta = store.head(&location.path).await?;
    let object = InputObject {
        name: path.display().to_string(),
        store,
        path: location.path,
        bytes: meta.size,
        e_tag: meta.e_tag,
    };
    let row_key: Vec<&str> = row_key.iter().map(String::as_str).collect();
    let sort_key: Vec<&str> = sort_key.iter().map(String::as_str).collect();
    context
        .instance
        .engine
        .schema_of(object, &row_key, &sort_key)
        .await
}

pub(super) async fn list(context: &Context) -> Result<()> {
    let tables = context.instance.services.tables.list().await?;
    let columns = [
        Column::Left("table"),
        Column::Left("id"),
        Column::Left("phase"),
        Column::Left("created"),
    ];
    let row = |info: &TableInfo| {
        vec![
            info.name.to_string(),
            info.id.to_string(),
            info.phase.to_string(),
            info.created.to_string(),
        ]
    };
    context
        .printer
        .list(&tables, &columns, row, "no tables; dormouse table create --help")
}

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    info: TableInfo,
    schema: Arc<Schema>,
    transaction: u64,
    leaves: usize,
    files: usize,
    references: u64,
    rows: u64,
    bytes: u64,
    garbage_files: usize,
    pins: usize,
}

pub(super) async fn describe(context: &Context, info: &TableInfo) -> Result<()> {
    let state = context.instance.services.states.live_state(&info.id).await?;
    let schema = state
        .schema()
        .cloned()
        .ok_or_else(|| Error::corrupt("a live table has no schema".to_owned()))?;
    let description = Description {
        info: info.clone(),
        schema,
        transaction: state.transaction().0,
        leaves: state.leaf_count(),
        files: state.file_count(),
        references: state.reference_count(),
        rows: state.rows(),
        bytes: state.files().map(|(file, _)| file.bytes).sum(),
        garbage_files: state.garbage().count(),
        pins: state.pins().count(),
    };
    context.printer.value(&description, |description| {
        let fields = printer::fields(&[
            ("table", description.info.name.to_string()),
            ("id", description.info.id.to_string()),
            ("phase", description.info.phase.to_string()),
            ("created", description.info.created.to_string()),
            ("transaction", description.transaction.to_string()),
            ("leaves", printer::count(description.leaves as u64)),
            ("files", printer::count(description.files as u64)),
            ("references", printer::count(description.references)),
            ("rows", printer::count(description.rows)),
            ("size", printer::bytes(description.bytes)),
            ("garbage", format!("{} files", description.garbage_files)),
            ("pins", description.pins.to_string()),
        ]);
        let columns = [
            Column::Left("column"),
            Column::Left("type"),
            Column::Left("key"),
            Column::Left("nullable"),
        ];
        let schema = &description.schema;
        let keys = std::iter::repeat_n("row", schema.row_key().len())
            .chain(std::iter::repeat_n("sort", schema.sort_key().len()))
            .chain(std::iter::repeat(""));
        let rows = schema.columns().zip(keys).map(|(column, key)| {
            vec![
                column.name.clone(),
                format!("{:?}", column.data_type),
                key.to_owned(),
                if column.nullable { "yes" } else { "no" }.to_owned(),
            ]
        });
        let mut text = format!("{fields}\n\n{}", printer::table(&columns, rows));
        for (key, value) in &description.info.properties {
            text.push_str(&format!("\n{key}={value}"));
        }
        text
    })
}
