//! From the text of a query to its plan.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use datafusion::{
    common::{ParamValues, ScalarValue, TableReference, metadata::ScalarAndMetadata},
    execution::{SessionState, cache::cache_manager::FileMetadataCache, context::SQLOptions},
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    sql::parser::Statement,
};
use dormouse_core::{
    Error, Result,
    ports::{ParameterValue, QueryProgress, QueryRefusal, QuerySpec},
};

use super::{
    failure::refused,
    statement::{check_expanded, check_statement, check_text},
    table::SnapshotTable,
};

/// Plans queries.
#[derive(Clone, Debug)]
pub(super) struct Planner {
    /// Footers of files that others have read.
    pub(super) footers: Arc<FileMetadataCache>,
    /// Is told what there is to read, and what was read.
    pub(super) progress: Arc<QueryProgress>,
}

impl Planner {
    /// The plan of a query; what it names is known to the session from then on.
    pub(super) async fn plan(&self, session: &SessionState, spec: &QuerySpec) -> Result<LogicalPlan> {
        check_text(&spec.sql)?;
        let dialect = session.config_options().sql_parser.dialect;
        let statement = session
            .sql_to_statement(&spec.sql, &dialect)
            .map_err(|error| refused(&error))?;
        check_statement(&statement)?;
        check_expanded(&statement, &spec.limits)?;
        let names = session
            .resolve_table_references(&statement)
            .map_err(|error| refused(&error))?;
        let guarded = self.register(session, names, spec).await?;
        if let (Some(table), Statement::Explain(_)) = (guarded, &statement) {
            return Err(Error::invalid(format!(
                "EXPLAIN tells of all rows of a table, and of \"{table}\" only some are for you"
            )));
        }
        let plan = session
            .statement_to_plan(statement)
            .await
            .map_err(|error| refused(&error))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|error| refused(&error))?;
        plan.with_param_values(parameters(&spec.parameters))
            .map_err(|error| refused(&error))
    }

    /// Makes the tables that a query names known to its session. Answers with one that has a row policy, if one has.
    async fn register(
        &self,
        session: &SessionState,
        names: Vec<TableReference>,
        spec: &QuerySpec,
    ) -> Result<Option<String>> {
        let mut guarded = None;
        for (number, name) in names.into_iter().enumerate() {
            let TableReference::Bare { table } = &name else {
                return Err(Error::invalid(format!(
                    "\"{name}\" is no table; tables have names of one part"
                )));
            };
            let snapshot = spec
                .tables
                .table(table)
                .await?
                .ok_or_else(|| QueryRefusal::AbsentTable(table.to_string()))?;
            if snapshot.policy.is_some() {
                guarded = Some(table.to_string());
            }
            let provider = SnapshotTable::new(snapshot, number, self.footers.clone(), self.progress.clone())?;
            session
                .schema_for_ref(name.clone())
                .and_then(|schema| schema.register_table(table.to_string(), Arc::new(provider)))
                .map_err(|error| refused(&error))?;
        }
        Ok(guarded)
    }
}

/// The plan with its rows limited to one more than asked for, so that it shows whether there are more.
pub(super) fn limited(plan: LogicalPlan, rows: Option<u64>) -> Result<LogicalPlan> {
    let Some(rows) = rows else { return Ok(plan) };
    if matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_)) {
        return Ok(plan);
    }
    let fetch = usize::try_from(rows).unwrap_or(usize::MAX).saturating_add(1);
    LogicalPlanBuilder::from(plan)
        .limit(0, Some(fetch))
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| refused(&error))
}

fn parameters(values: &BTreeMap<String, ParameterValue>) -> ParamValues {
    let scalar = |value: &ParameterValue| match value {
        ParameterValue::Null => ScalarValue::Null,
        ParameterValue::Boolean(value) => ScalarValue::Boolean(Some(*value)),
        ParameterValue::Integer(value) => ScalarValue::Int64(Some(*value)),
        ParameterValue::Float(value) => ScalarValue::Float64(Some(*value)),
        ParameterValue::Text(value) => ScalarValue::Utf8(Some(value.clone())),
    };
    let named: HashMap<_, _> = values
        .iter()
        .map(|(name, value)| (name.clone(), ScalarAndMetadata::from(scalar(value))))
        .collect();
    ParamValues::Map(named)
}
