//! Dropping a call's future stops its work.

use std::{sync::Arc, time::Duration};

use dormouse_core::ports::{Progress, RowEngine};

use crate::fixture::{Fixture, text_batch};

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the test waits for real threads")]
async fn a_dropped_ingest_stops_reading() {
    let mut fixture = Fixture::text(&[]);
    fixture.options.threads = std::num::NonZeroUsize::MIN;
    let keys: Vec<String> = (0..20_000).map(|row| format!("{row}")).collect();
    let rows: Vec<(&str, i64, Option<&str>)> = keys.iter().map(|key| (key.as_str(), 1, None)).collect();
    let input = fixture.put_batches("in/x.parquet", &[text_batch(&rows)]).await;
    let progress = Arc::new(Progress::default());
    let engine = fixture.engine();
    let call = engine.ingest(fixture.spec(vec![input; 500]), progress.clone());
    let begun = async {
        while progress.read() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = call => panic!("the ingest came to its end: {result:?}"),
        () = begun => {}
    }
    let mut before = progress.read();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = progress.read();
        if now == before {
            break;
        }
        before = now;
    }
    assert!(progress.read() < 500 * 20_000, "all rows were read");
    assert_eq!(progress.written(), 0);
}
