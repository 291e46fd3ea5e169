//! A quick look at simulated runs.
#![allow(missing_docs)]
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;

use dormouse_jobs::testing::{campaign, rows::{MemoryRows, Rows}, simulation};

fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    let rows: Arc<dyn Rows> = Arc::new(MemoryRows);
    if arguments.len() == 1 {
        match simulation::run(arguments[0], &rows, usize::MAX) {
            Ok(summary) => println!("{summary:#?}"),
            Err(failure) => {
                for line in &failure.trace { println!("{line}"); }
                println!("{failure}");
            }
        }
        return;
    }
    let campaign = campaign::run((arguments[0], arguments[1]), &rows, 2, 10, |_, _| {});
    for failure in &campaign.failures { println!("{failure}"); }
    println!("{} seeds {} failed {:?}\n{:#?}", campaign.seeds, campaign.failures.len(), campaign.elapsed, campaign.total);
}
