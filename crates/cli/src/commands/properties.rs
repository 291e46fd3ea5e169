//! `dormouse properties`.

use dormouse_core::{
    Result,
    config::{PROPERTIES, Property, Scope},
};
use serde::Serialize;

use crate::printer::{Column, Printer};

#[derive(Serialize)]
struct Row {
    key: String,
    scope: &'static str,
    default: &'static str,
    doc: &'static str,
}

impl From<&Property> for Row {
    fn from(property: &Property) -> Self {
        Self {
            key: format!("dormouse.{}", property.name),
            scope: match property.scope {
                Scope::Instance => "instance",
                Scope::Table => "table",
            },
            default: property.default,
            doc: property.doc,
        }
    }
}

pub(super) fn run(printer: Printer) -> Result<()> {
    let rows: Vec<Row> = PROPERTIES.iter().map(Row::from).collect();
    let columns = [
        Column::Left("key"),
        Column::Left("of"),
        Column::Left("default"),
        Column::Left("what it does"),
    ];
    let row = |row: &Row| {
        vec![
            row.key.clone(),
            row.scope.to_owned(),
            row.default.to_owned(),
            row.doc.to_owned(),
        ]
    };
    printer.list(&rows, &columns, row, "no properties")
}
