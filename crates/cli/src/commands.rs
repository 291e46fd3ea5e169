//! One file per noun.

mod api;
mod compact;
mod demo;
mod doctor;
mod export;
mod files;
mod gc;
mod generate;
mod ingest;
mod instance;
mod jobs;
mod key;
mod links;
mod partitions;
mod properties;
mod purge;
mod query;
mod queue;
mod scale;
mod serve;
mod shell;
mod split;
mod status;
mod table;
mod tenant;

use std::process::ExitCode;

use dormouse_core::Result;

use crate::{
    args::{Args, Command},
    instance::Instance,
    printer::Printer,
};

/// What every command works with.
pub(crate) struct Context {
    pub(crate) instance: Instance,
    pub(crate) printer: Printer,
}

/// Runs the command.
///
/// # Errors
/// Whatever the command met; its kind is the exit code.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let printer = Printer::new(args.format);
    match &args.command {
        Command::Generate(args) => {
            generate::run(args, printer)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Properties => {
            properties::run(printer)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Instance(command) => return instance::run(&args, command, printer).await,
        _ => {}
    }
    let context = Context {
        instance: Instance::open(&args).await?,
        printer,
    };
    match args.command {
        Command::Tenant(command) => tenant::run(&context, command).await?,
        Command::Key(command) => key::run(&context, command).await?,
        Command::Table(command) => table::run(&context, command).await?,
        Command::Partitions(args) => partitions::run(&context, &args).await?,
        Command::Files(args) => files::run(&context, &args).await?,
        Command::Ingest(args) => return ingest::run(&context, args).await,
        Command::Export(args) => return export::run(&context, args).await,
        Command::Query(args) => Box::pin(query::query(&context, &args)).await?,
        Command::Get(args) => Box::pin(query::get(&context, &args)).await?,
        Command::Shell(args) => shell::run(&context, &args).await?,
        Command::Status(args) => status::run(&context, &args).await?,
        Command::Split(args) => split::run(&context, &args).await?,
        Command::Compact(args) => return compact::run(&context, &args).await,
        Command::Purge(args) => return Box::pin(purge::run(&context, args)).await,
        Command::Jobs(command) => jobs::run(&context, command).await?,
        Command::Queue(command) => queue::run(&context, command).await?,
        Command::Worker(args) => serve::worker(&context, &args).await?,
        Command::Serve(args) => serve::serve(&context, &args).await?,
        Command::Api(args) => api::run(&context, &args).await?,
        Command::Scale(args) => scale::run(&context, &args).await?,
        Command::Links(args) => links::run(&context, &args).await?,
        Command::Gc(args) => gc::run(&context, &args).await?,
        Command::Doctor(args) => return doctor::run(&context, &args).await,
        Command::Demo(args) => demo::run(&context, &args).await?,
        Command::Generate(_) | Command::Properties | Command::Instance(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}
