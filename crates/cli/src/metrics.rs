//! Measurements as lines of CloudWatch's embedded metric format on standard output, which the log driver of a
//! container takes to CloudWatch.
//!
//! Format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::{io::Write, sync::Arc};

use dormouse_core::{
    ports::{Clock, Metric, Metrics},
    time::Timestamp,
};
use serde_json::{Map, Value, json};

/// Dimensions are Sleeper's: `instanceId`, and `tableName` where there is one.
#[derive(Debug)]
pub(crate) struct EmfMetrics {
    namespace: String,
    instance: String,
    clock: Arc<dyn Clock>,
}

impl EmfMetrics {
    pub(crate) fn new(namespace: &str, instance: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            instance: instance.to_owned(),
            clock,
        }
    }

    fn line(&self, now: Timestamp, table: Option<&str>, measured: &[(Metric, f64)]) -> Value {
        let mut dimensions = vec!["instanceId"];
        let mut line = Map::from_iter([("instanceId".to_owned(), json!(self.instance))]);
        if let Some(table) = table {
            dimensions.push("tableName");
            line.insert("tableName".to_owned(), json!(table));
        }
        let definitions: Vec<_> = measured
            .iter()
            .map(|(metric, _)| json!({ "Name": metric.as_str(), "Unit": "Count" }))
            .collect();
        line.extend(
            measured
                .iter()
                .map(|(metric, value)| (metric.as_str().to_owned(), json!(value))),
        );
        line.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": now.as_millis(),
                "CloudWatchMetrics": [{
                    "Namespace": self.namespace,
                    "Dimensions": [dimensions],
                    "Metrics": definitions,
                }],
            }),
        );
        Value::Object(line)
    }
}

impl Metrics for EmfMetrics {
    fn put(&self, table: Option<&str>, measured: &[(Metric, f64)]) {
        let line = format!("{}\n", self.line(self.clock.now(), table, measured));
        // A measurement is not worth an error.
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use dormouse_core::ports::SystemClock;

    use super::*;

    #[test]
    fn a_line_is_as_cloudwatch_reads_it() {
        let metrics = EmfMetrics::new("Dormouse", "prod", Arc::new(SystemClock));
        let now = Timestamp::from_millis(1_700_000_000_000);
        let line = metrics.line(now, Some("events"), &[(Metric::IngestRowsWritten, 7.0)]);
        let expected = json!({
            "_aws": {
                "Timestamp": 1_700_000_000_000_i64,
                "CloudWatchMetrics": [{
                    "Namespace": "Dormouse",
                    "Dimensions": [["instanceId", "tableName"]],
                    "Metrics": [{ "Name": "StandardIngestRowsWritten", "Unit": "Count" }],
                }],
            },
            "instanceId": "prod",
            "tableName": "events",
            "StandardIngestRowsWritten": 7.0,
        });
        assert_eq!(line, expected);
        assert_eq!(metrics.line(now, None, &[]).get("tableName"), None);
    }
}
