//! What the parts of an instance are called.

use dormouse_core::{Error, Result, ids::BucketName, ports::QueueName};

/// The longest id of an instance.
const MAX_INSTANCE_BYTES: usize = 20;

/// The names of an instance's parts: `dormouse-<instance>-<part>`, and for buckets, whose names the whole world
/// shares, with the account's number behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    instance: String,
}

/// A bucket of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketPart {
    /// `instance.properties`.
    Config,
    /// Tables' files, snapshots and large log entries.
    TableData,
    /// Exports.
    Export,
}

impl BucketPart {
    /// Every bucket.
    pub const ALL: [Self; 3] = [Self::Config, Self::TableData, Self::Export];

    /// The part of the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::TableData => "table-data",
            Self::Export => "bulk-export-results",
        }
    }
}

impl Names {
    /// The names of an instance.
    ///
    /// # Errors
    /// `Invalid` when the id is empty, longer than 20 characters, or has others than lower-case letters, digits
    /// and inner hyphens.
    pub fn new(instance: &str) -> Result<Self> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = (1..=MAX_INSTANCE_BYTES).contains(&instance.len())
            && instance.chars().all(inner)
            && !instance.starts_with('-')
            && !instance.ends_with('-');
        if !fits {
            return Err(Error::invalid(format!(
                "\"{}\" is no id of an instance; it has 1 to {MAX_INSTANCE_BYTES} lower-case letters, digits and inner \
                 hyphens",
                instance.escape_debug()
            )));
        }
        Ok(Self {
            instance: instance.to_owned(),
        })
    }

    /// The instance's id.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What the names of DynamoDB tables begin with; the collection's name follows.
    pub fn table_prefix(&self) -> String {
        format!("dormouse-{}-", self.instance)
    }

    /// The name of a queue.
    pub fn queue(&self, queue: QueueName) -> String {
        format!("dormouse-{}-{queue}{}", self.instance, fifo(queue))
    }

    /// The name of a queue's dead letters.
    pub fn dead_letters(&self, queue: QueueName) -> String {
        format!("dormouse-{}-{queue}-dead{}", self.instance, fifo(queue))
    }

    /// The name of a bucket.
    ///
    /// # Errors
    /// `Invalid` when the account is no number.
    pub fn bucket(&self, part: BucketPart, account: &str) -> Result<BucketName> {
        BucketName::new(format!("dormouse-{}-{}-{account}", self.instance, part.as_str()))
    }

    /// The family of the task definitions of a queue's workers.
    pub fn task_family(&self, queue: QueueName) -> String {
        format!("dormouse-{}-{queue}", self.instance)
    }
}

fn fifo(queue: QueueName) -> &'static str {
    if queue.is_ordered() { ".fifo" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_called_after_the_instance() {
        let names = Names::new("prod-1").unwrap();
        assert_eq!(names.table_prefix(), "dormouse-prod-1-");
        assert_eq!(names.queue(QueueName::Ingest), "dormouse-prod-1-ingest");
        assert_eq!(names.queue(QueueName::Commit), "dormouse-prod-1-commit.fifo");
        assert_eq!(
            names.dead_letters(QueueName::Commit),
            "dormouse-prod-1-commit-dead.fifo"
        );
        let bucket = names.bucket(BucketPart::Export, "123456789012").unwrap();
        assert_eq!(
            bucket.as_str(),
            "dormouse-prod-1-bulk-export-results-123456789012"
        );
        // The longest that S3 takes.
        let longest = Names::new(&"x".repeat(20)).unwrap();
        assert!(
            longest
                .bucket(BucketPart::Export, "123456789012")
                .unwrap()
                .as_str()
                .len()
                <= 63
        );
    }

    #[test]
    fn ids_that_no_bucket_could_have_are_refused() {
        for id in ["", "-a", "a-", "A", "a_b", "a.b", "caf\u{e9}", &"x".repeat(21)] {
            assert!(Names::new(id).is_err(), "{id}");
        }
    }
}
