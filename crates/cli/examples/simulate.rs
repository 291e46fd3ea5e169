//! Simulated runs, as many as asked for, on all cores. `scripts/simulate` builds and runs this.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

use std::{error::Error, process::ExitCode, sync::Arc};

use clap::{Parser, ValueEnum};
use dormouse_core::testing::rows::{MemoryRows, Rows};
use dormouse_engine::testing::ParquetRows;
use dormouse_jobs::testing::{
    auditor::RARE_EVENTS,
    campaign::{self, Campaign},
    simulation::{self, Summary},
};
use serde_json::json;

/// Runs whole simulated instances from seeds, with faults, and checks that no row is lost or doubled.
#[derive(Parser)]
#[command(name = "scripts/simulate")]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// One seed only, with what it did
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Print every call of the one seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// The form of the rows: texts in memory, or Parquet through the real row engine
    #[arg(long, value_enum, default_value_t = Form::Memory)]
    rows: Form,
    /// How many threads; all cores by default
    #[arg(long)]
    threads: Option<usize>,
    /// Stop after so many failures
    #[arg(long, default_value_t = 10)]
    stop_after: usize,
    /// What the report is written as
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Memory,
    Parquet,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse();
    let rows: Arc<dyn Rows> = match arguments.rows {
        Form::Memory => Arc::new(MemoryRows),
        Form::Parquet => Arc::new(ParquetRows::new()?),
    };
    if let Some(seed) = arguments.seed {
        return Ok(one(seed, &rows, arguments.trace));
    }
    let threads = arguments.threads.unwrap_or_else(campaign::all_threads);
    let seeds = (arguments.first, arguments.seeds);
    let every = (arguments.seeds / 20).max(1);
    let campaign = campaign::run(seeds, &rows, threads, arguments.stop_after, |so_far, failure| {
        if let Some(failure) = failure {
            eprintln!("{failure}");
        }
        if so_far.seeds % every == 0 {
            let failed = so_far.failures.len();
            eprintln!("{} of {} seeds, {failed} failed", so_far.seeds, arguments.seeds);
        }
    });
    match arguments.format {
        Format::Table => table(&campaign),
        Format::Json => println!("{}", json_of(&campaign, rows.name())),
    }
    Ok(ExitCode::from(u8::from(!campaign.failures.is_empty())))
}

fn one(seed: u64, rows: &Arc<dyn Rows>, trace: bool) -> ExitCode {
    let kept = if trace { usize::MAX } else { simulation::KEPT_LINES };
    let end = simulation::run(seed, rows, kept);
    let lines = match &end {
        Ok(summary) => &summary.trace,
        Err(failure) => &failure.trace,
    };
    for line in lines.iter().filter(|_| trace) {
        println!("{line}");
    }
    match end {
        Ok(summary) => {
            counts(&summary);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn line(name: &str, value: impl std::fmt::Display) {
    println!("{name:<60}{value:>14}");
}

fn counts(total: &Summary) {
    line("calls on ports", total.calls);
    line("simulated hours", total.seconds / 3600);
    line("processes killed", total.kills);
    line("jobs", total.jobs);
    line("exports equal to their table", total.exports);
    line("rows at the end", total.rows);
    line("trace", format!("{:016x}", total.hash));
    println!("\nfaults");
    for (name, count) in &total.faults {
        line(&format!("  {name}"), count);
    }
    println!("\nrare events");
    for name in RARE_EVENTS {
        line(&format!("  {name}"), total.events.get(name).copied().unwrap_or(0));
    }
}

fn table(campaign: &Campaign) {
    line("seeds", campaign.seeds);
    line("failed", campaign.failures.len());
    line("seconds", campaign.elapsed.as_secs());
    counts(&campaign.total);
}

fn json_of(campaign: &Campaign, rows: &str) -> serde_json::Value {
    let total = &campaign.total;
    json!({
        "rows_form": rows,
        "seeds": campaign.seeds,
        "failed": campaign.failures.iter().map(|failure| failure.seed).collect::<Vec<_>>(),
        "seconds": campaign.elapsed.as_secs_f64(),
        "calls": total.calls,
        "simulated_seconds": total.seconds,
        "kills": total.kills,
        "jobs": total.jobs,
        "exports": total.exports,
        "rows": total.rows,
        "trace": format!("{:016x}", total.hash),
        "faults": total.faults,
        "rare_events": total.events,
    })
}
