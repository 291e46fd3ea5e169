//! What is wrong with a query, in the words and kinds of the ports.

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use dormouse_core::{Error, ErrorKind};
use parquet::errors::ParquetError;

/// What is wrong with a query that cannot be planned.
pub(super) fn refused(error: &DataFusionError) -> Error {
    kind_of(error).unwrap_or_else(|| Error::invalid(reason(error)))
}

/// What is wrong with a query that is under way.
pub(super) fn failed(error: &DataFusionError) -> Error {
    kind_of(error).unwrap_or_else(|| Error::invalid(format!("the query failed: {}", reason(error))))
}

/// An error that is not the query's, or is about what it may use.
fn kind_of(error: &DataFusionError) -> Option<Error> {
    if let Some(cause) = cause(error) {
        return Some(cause);
    }
    match error.find_root() {
        // Spilling has no error of its own.
        DataFusionError::ArrowError(source, _) => match &**source {
            ArrowError::IoError(text, _) => Some(too_large(text)),
            _ => None,
        },
        DataFusionError::ObjectStore(source) => Some(of_store(source)),
        DataFusionError::ParquetError(source) => Some(of_parquet(source)),
        DataFusionError::IoError(source) => Some(Error::unavailable(format!(
            "the query cannot use the disk: {source}"
        ))),
        _ => None,
    }
}

/// The cause that decides alone, wherever in the chain it is: scans carry what their filters say inside errors of
/// Arrow and Parquet, some of them as text.
fn cause(error: &DataFusionError) -> Option<Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    let mut last = None;
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(Error::new(ours.kind(), ours.report()));
        }
        if let Some(DataFusionError::ResourcesExhausted(text)) = error.downcast_ref() {
            return Some(too_large(text));
        }
        if let Some(store) = error.downcast_ref::<object_store::Error>() {
            return Some(of_store(store));
        }
        last = Some(error);
        next = below(error);
    }
    let text = last?.to_string();
    // What goes wrong in a filter that a scan evaluates is told as text.
    let exhausted = ["Resources exhausted: ", "ResourcesExhausted("];
    if let Some(rest) = exhausted.iter().find_map(|name| Some(text.split_once(name)?.1)) {
        return Some(too_large(rest));
    }
    let (_, rest) = text.split_once("Error evaluating filter predicate: ")?;
    Some(Error::invalid(format!("the query failed: {rest}")))
}

/// An error about rows that whoever asks may not see: as it is, where it tells nothing of them, else without what it
/// tells.
pub(super) fn without_rows(error: DataFusionError) -> DataFusionError {
    let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(error_below) = next {
        let of_query = matches!(
            error_below.downcast_ref(),
            Some(DataFusionError::ResourcesExhausted(_) | DataFusionError::IoError(_))
        );
        let of_table = error_below.downcast_ref::<Error>();
        let of_table = of_table.is_some_and(|error| error.kind() != ErrorKind::Invalid);
        if of_query || of_table || error_below.is::<object_store::Error>() {
            return error;
        }
        next = below(error_below);
    }
    tracing::error!(
        error = reason(&error),
        "rows of a table with a row policy cannot be read"
    );
    DataFusionError::External(Box::new(Error::corrupt(
        "rows of a shared table cannot be read; the log says why",
    )))
}

/// What an error carries: some carry errors that they do not name as their source.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref() {
        Some(DataFusionError::ArrowError(source, _)) => return Some(&**source),
        Some(DataFusionError::ParquetError(source)) => return Some(&**source),
        Some(DataFusionError::ObjectStore(source)) => return Some(&**source),
        Some(DataFusionError::External(source)) => return Some(&**source),
        _ => {}
    }
    match error.downcast_ref() {
        Some(ArrowError::ExternalError(source)) => return Some(&**source),
        Some(_) => return None,
        None => {}
    }
    match error.downcast_ref() {
        Some(ParquetError::External(source)) => return Some(&**source),
        Some(_) => return None,
        None => {}
    }
    error.source()
}

/// What a query beyond its limits is told.
pub(super) fn too_large(reason: &str) -> Error {
    Error::invalid(format!(
        "the query needs more memory or disk than it may use: {reason}"
    ))
}

fn of_store(error: &object_store::Error) -> Error {
    match error {
        // Its state was newer than what the garbage collector goes by when the query began.
        object_store::Error::NotFound { path, .. } => Error::unavailable(format!(
            "file {path} was collected while the query ran; ask again"
        )),
        error => Error::unavailable(format!("a file cannot be read: {error}")),
    }
}

fn of_parquet(error: &ParquetError) -> Error {
    Error::corrupt(format!("a file of the table cannot be read: {error}"))
}

/// What a panic says, as an error.
pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it does not say why");
    tracing::error!(panic = text, "a query panicked");
    Error::internal(format!("the query cannot be answered: {text}"))
}

/// What is wrong, for people.
pub(crate) fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        error => error.strip_backtrace(),
    }
}
