//! A table's schema with what the engine derives from it.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::{DataType as ArrowType, FieldRef, Fields, Schema as ArrowSchema, SchemaRef},
};
use dormouse_core::{Error, Result, schema::Schema};

use crate::{arrow_schema::arrow_schema, sort_key};

/// The columns of a table, in core's words and in Arrow's.
#[derive(Clone, Debug)]
pub(crate) struct TableSchema {
    pub(crate) core: Arc<Schema>,
    pub(crate) arrow: SchemaRef,
}

impl TableSchema {
    pub(crate) fn new(core: Arc<Schema>) -> Self {
        let arrow = arrow_schema(&core);
        Self { core, arrow }
    }

    /// The same table with codes in some columns, which are no keys.
    pub(crate) fn with_codes(&self, columns: &[usize]) -> Self {
        let field = |(column, field): (usize, &FieldRef)| match columns.contains(&column) {
            true => Arc::new(field.as_ref().clone().with_data_type(ArrowType::UInt32)),
            false => field.clone(),
        };
        let fields: Fields = self.arrow.fields().iter().enumerate().map(field).collect();
        Self {
            core: self.core.clone(),
            arrow: Arc::new(ArrowSchema::new(fields)),
        }
    }

    /// How many columns decide the order of rows.
    pub(crate) fn key_columns(&self) -> usize {
        self.core.key_columns()
    }

    pub(crate) fn row_key_columns(&self) -> usize {
        self.core.row_key().len()
    }

    /// The type of a column, by its position in the table.
    pub(crate) fn column_type(&self, column: usize) -> &ArrowType {
        self.arrow.field(column).data_type()
    }

    /// A batch of columns in table order.
    pub(crate) fn batch(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        RecordBatch::try_new(self.arrow.clone(), columns)
            .map_err(|error| Error::internal("columns do not make a batch of the table").with_source(error))
    }

    /// The keys of a batch of columns in table order.
    pub(crate) fn keys(&self, columns: &[ArrayRef]) -> Result<sort_key::Keys> {
        sort_key::Keys::new(columns, self.key_columns())
    }
}
