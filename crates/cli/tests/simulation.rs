//! Simulated runs over the real row engine on small Parquet.

use std::sync::Arc;

use dormouse_core::testing::rows::Rows;
use dormouse_engine::testing::ParquetRows;
use dormouse_jobs::testing::campaign;

#[test]
fn fifty_seeds_on_parquet() {
    let rows: Arc<dyn Rows> = Arc::new(ParquetRows::new().unwrap());
    let campaign = campaign::run((1, 50), &rows, campaign::all_threads(), 5, |_, _| {});
    let failures: Vec<_> = campaign.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(campaign.seeds, 50);
    assert!(campaign.total.rows > 0 && campaign.total.exports > 0);
}
