//! `dormouse`: commands for people, and the worker and server processes.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`args`] | every command and option |
//! | [`clock`] | the clock of this process |
//! | [`instance`] | wires the adapters of an instance |
//! | [`key_text`] | row keys as people write them |
//! | [`metrics`] | measurements for CloudWatch |
//! | [`printer`] | reports as tables or JSON; data on standard output, the rest on standard error |
//! | [`signals`] | being asked to stop |
//! | [`wait`] | following a job to its end |
//! | [`commands`] | one file per noun |
//!
//! A command ends with the exit code of its error's kind (`dormouse_core::ErrorKind::exit_code`).

mod args;
mod clock;
mod commands;
mod instance;
mod key_text;
mod metrics;
mod printer;
mod signals;
mod wait;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::{EnvFilter, prelude::*};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = args::Args::parse();
    start_logs(&args);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer::error(&format!("cannot start: {error}"));
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(Box::pin(commands::run(args)));
    // What still runs is the engine's: its calls were dropped, so it stops at its next batch.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(code) => code,
        Err(error) => {
            printer::error(&error.report());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn start_logs(args: &args::Args) {
    let default = if args.command.is_server() { "info" } else { "error" };
    let filter = EnvFilter::try_from_env("DORMOUSE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    match args.log_format {
        args::LogFormat::Text => registry.with(layer.compact()).init(),
        args::LogFormat::Json => registry.with(layer.json()).init(),
    }
}
