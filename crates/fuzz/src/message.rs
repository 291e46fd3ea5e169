//! Bodies of queue messages, through every parser.

use dormouse_core::{
    ErrorKind, Result,
    message::{
        CommitMessage, ExportLeafMessage, ExportMessage, IngestMessage, TableRef, export::parse_as_of,
    },
};

use crate::text;

pub(crate) fn run(data: &[u8]) {
    let Some(body) = text(data) else { return };
    if let Some(message) = parsed(IngestMessage::parse(body)) {
        let id = IngestMessage::id_of(body);
        assert_eq!(message.id, id, "id_of and parse disagree");
        check_table(&message.table);
        assert!(!message.files.is_empty());
        for (written, location) in &message.files {
            assert_eq!(written.parse().ok().as_ref(), Some(location));
        }
    }
    if let Some(message) = parsed(ExportMessage::parse(body)) {
        assert_eq!(message.id, ExportMessage::id_of(body), "id_of and parse disagree");
        check_table(&message.table);
    }
    if let Some(message) = parsed(ExportLeafMessage::parse(body)) {
        let again = message.to_body().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ExportLeafMessage::parse(&again).ok(), Some(message));
    }
    if let Some(message) = parsed(CommitMessage::parse(body)) {
        let again = message.to_body().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(CommitMessage::parse(&again).ok(), Some(message));
    }
    let _ = IngestMessage::id_of(body);
    let _ = ExportMessage::id_of(body);
    let _ = parsed(parse_as_of(body));
}

fn check_table(table: &TableRef) {
    let text = match table {
        TableRef::Name(name) => name.as_str(),
        TableRef::Id(id) => id.as_str(),
    };
    assert!(!text.is_empty() && !text.contains('/'));
}

/// A refusal is `Invalid` and can be reported.
fn parsed<T>(result: Result<T>) -> Option<T> {
    result
        .map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
        })
        .ok()
}
