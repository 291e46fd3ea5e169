//! Headers that describe an object.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue, header};
use object_store::ObjectMeta;

/// The last second that fits the date of a header: the end of the year 9999.
const MAX_SECONDS: i64 = 253_402_300_799;

/// The headers that every answer about an object has.
pub(super) fn headers(meta: &ObjectMeta, tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let seconds = meta.last_modified.timestamp().clamp(0, MAX_SECONDS);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
    let name = meta.location.filename().unwrap_or_default();
    let texts = [
        (header::ETAG, tag.to_owned()),
        (header::LAST_MODIFIED, httpdate::fmt_http_date(modified)),
        (header::CONTENT_DISPOSITION, disposition(name)),
    ];
    for (header, text) in texts {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(header, value);
        }
    }
    for (header, text) in [
        (header::CONTENT_TYPE, content_type(name)),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(header, HeaderValue::from_static(text));
    }
    headers
}

/// A file is what it is: one that is compressed is downloaded so, under its own name.
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        Some("ndjson") => "application/x-ndjson",
        Some("parquet") => "application/vnd.apache.parquet",
        Some("gz") => "application/gzip",
        Some("zst") => "application/zstd",
        _ => "application/octet-stream",
    }
}

fn disposition(name: &str) -> String {
    let safe = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() => letter,
        '.' | '-' | '_' | ' ' => letter,
        _ => '_',
    };
    let name: String = name.chars().map(safe).collect();
    format!("attachment; filename=\"{name}\"")
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;

    fn of(path: &str) -> HeaderMap {
        let meta = ObjectMeta {
            location: Path::from(path),
            last_modified: Default::default(),
            size: 1,
            e_tag: None,
            version: None,
        };
        headers(&meta, "\"t\"")
    }

    #[test]
    fn the_type_is_by_the_ending() {
        for (path, content_type) in [
            ("a/data.csv", "text/csv"),
            ("a/data.json", "application/json"),
            ("a/data.ndjson", "application/x-ndjson"),
            ("a/data.parquet", "application/vnd.apache.parquet"),
            ("a/data.csv.gz", "application/gzip"),
            ("a/data.json.zst", "application/zstd"),
            ("a.csv/data", "application/octet-stream"),
        ] {
            assert_eq!(of(path)[header::CONTENT_TYPE], content_type, "{path}");
        }
    }

    #[test]
    fn an_object_is_described() {
        let headers = of("tenant-a/job-1/data.csv.gz");
        for (name, value) in [
            (header::ETAG, "\"t\""),
            (header::LAST_MODIFIED, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (
                header::CONTENT_DISPOSITION,
                "attachment; filename=\"data.csv.gz\"",
            ),
            (header::ACCEPT_RANGES, "bytes"),
            (header::CACHE_CONTROL, "private, no-store"),
        ] {
            assert_eq!(headers[name], value);
        }
        assert!(!headers.contains_key(header::CONTENT_ENCODING));
    }

    #[test]
    fn a_name_cannot_end_its_header() {
        assert_eq!(
            disposition("a\"; x=\r\nä.csv"),
            "attachment; filename=\"a_; x=___.csv\"".replace("; x=", "_ x_")
        );
    }
}
