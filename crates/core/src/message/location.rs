//! Where input files are, as messages write it.

use std::{fmt, str::FromStr};

use object_store::path::Path;

use crate::{
    error::{Error, Result},
    ids::BucketName,
    ports::Bucket,
};

/// An object, or a prefix of objects: `bucket/key`, `s3://bucket/key`, `s3a://bucket/key` or `file:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The bucket.
    pub bucket: Bucket,
    /// The key, or the absolute path without its leading slash.
    pub path: Path,
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::invalid(format!(
                "path \"{}\" {why}; write bucket/key, s3://bucket/key or file:///directory/file",
                text.escape_debug()
            ))
        };
        let path =
            |key: &str| Path::parse(key.trim_end_matches('/')).map_err(|_| wrong("is not an object key"));
        if let Some(file) = text.strip_prefix("file://") {
            let Some(absolute) = file.strip_prefix('/') else {
                return Err(wrong("is not an absolute path"));
            };
            return Ok(Self {
                bucket: Bucket::Files,
                path: path(absolute)?,
            });
        }
        let rest = text
            .strip_prefix("s3://")
            .or_else(|| text.strip_prefix("s3a://"))
            .unwrap_or(text);
        if rest.contains("://") {
            return Err(wrong("has a scheme that is not known"));
        }
        if rest.starts_with('/') {
            return Err(wrong("begins with a slash"));
        }
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let bucket = BucketName::new(bucket).map_err(|error| wrong("has no bucket").with_source(error))?;
        Ok(Self {
            bucket: Bucket::Named(bucket),
            path: path(key)?,
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, display) in [
            ("source/a/b.parquet", "s3://source/a/b.parquet"),
            ("s3://source/a/", "s3://source/a"),
            ("s3a://source", "s3://source/"),
            ("file:///tmp/in.parquet", "file:///tmp/in.parquet"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), display);
        }
    }

    #[test]
    fn refuses_paths_that_are_not_where_they_seem() {
        for text in [
            "",
            "/etc/passwd",
            "file://relative",
            "http://host/x",
            "b/../c",
            "file:///a/../b",
            "..//x",
        ] {
            let error = text.parse::<Location>().expect_err(text);
            assert!(error.to_string().contains("write bucket/key"), "{error}");
        }
    }
}
