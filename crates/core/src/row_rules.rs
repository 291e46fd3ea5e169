//! Row rules: which rows of a table count, and which become one.
//!
//! A table's filters and aggregations are properties. Whoever merges rows applies them, to what it writes: a
//! compaction, an export. The rules then see every row of a key that is merged, in whatever files they were; rows of
//! files that nobody has merged yet stay as they were ingested until somebody does.
//!
//! - A *filter* `ageOff(column,millis)` drops rows whose time in `column` is `millis` or more before now, and rows
//!   without a time there.
//! - *Aggregations* `sum(column)`, `min`, `max`, `map_sum`, `map_min`, `map_max` make one row of all rows with the same
//!   row key and sort key. They name every value column once; `map_…` aggregates the values of each key of a map.
//!   Sums of whole numbers wrap around.
//!
//! Syntax and meaning are Sleeper's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    schema::{Column, DataType, Schema},
    time::Timestamp,
};

/// Rules, and the time that they hold at: filters by age give the same rows whenever they are applied again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesAt {
    /// The rules; not empty.
    pub rules: RowRules,
    /// The time.
    pub at: Timestamp,
}

/// A table's filters and aggregations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRules {
    /// Every row must pass all of them.
    pub filters: Vec<Filter>,
    /// None, or one for each value column.
    pub aggregations: Vec<Aggregation>,
}

/// What rows must be to count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Younger than an age.
    AgeOff {
        /// A timestamp, or a 64-bit number of milliseconds since the epoch.
        column: String,
        /// The age in milliseconds.
        millis: i64,
    },
}

/// What becomes of a value column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregation {
    /// The column.
    pub column: String,
    /// What is made of its values.
    pub function: Function,
    /// Whether the column is a map whose values are meant, key by key.
    pub is_map: bool,
}

/// What is made of many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Function {
    Sum,
    Min,
    Max,
}

impl RowRules {
    /// Reads the properties `table.filters` and `table.aggregations`.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong and what would be right.
    pub fn parse(filters: &str, aggregations: &str) -> Result<Self> {
        Ok(Self {
            filters: calls(filters)?
                .into_iter()
                .map(Filter::of)
                .collect::<Result<_>>()?,
            aggregations: calls(aggregations)?
                .into_iter()
                .map(Aggregation::of)
                .collect::<Result<_>>()?,
        })
    }

    /// The rules as they hold at a time; none when rows stay as they are.
    pub fn at(self, at: Timestamp) -> Option<RulesAt> {
        (!self.is_empty()).then_some(RulesAt { rules: self, at })
    }

    /// Whether rows stay as they are.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.aggregations.is_empty()
    }

    /// Checks that the rules fit the columns of a table.
    ///
    /// # Errors
    /// `Invalid`, with the column that is missing, is named twice, or has a type that a rule cannot take.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        for Filter::AgeOff { column, .. } in &self.filters {
            let found = schema.columns().find(|found| found.name == *column);
            match found.map(|found| &found.data_type) {
                Some(DataType::Int64 | DataType::Timestamp { .. }) => {}
                Some(_) => {
                    return Err(Error::invalid(format!(
                        "filter ageOff needs a timestamp or a 64-bit number of milliseconds, and column \"{column}\" is neither"
                    )));
                }
                None => {
                    return Err(Error::invalid(format!(
                        "filter ageOff names column \"{column}\", which the table does not have"
                    )));
                }
            }
        }
        if self.aggregations.is_empty() {
            return Ok(());
        }
        for aggregation in &self.aggregations {
            let mut values = schema.values().iter();
            let Some(column) = values.find(|column| column.name == aggregation.column) else {
                return Err(Error::invalid(format!(
                    "{aggregation} names a column that is no value column of the table"
                )));
            };
            if !aggregation.fits(column) {
                return Err(Error::invalid(format!(
                    "{aggregation} needs a {} without nulls",
                    if aggregation.is_map {
                        "map of numbers"
                    } else {
                        "number"
                    }
                )));
            }
        }
        for column in schema.values() {
            let mut named = self.aggregations.iter();
            let count = named.by_ref().filter(|named| named.column == column.name).count();
            if count != 1 {
                return Err(Error::invalid(format!(
                    "aggregations must name every value column once; \"{}\" is named {count} times",
                    column.name
                )));
            }
        }
        Ok(())
    }
}

fn is_number(data_type: &DataType) -> bool {
    use DataType::{Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
    matches!(
        data_type,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64
    )
}

impl Aggregation {
    fn of((name, arguments): (&str, Vec<&str>)) -> Result<Self> {
        let (is_map, function) = match name.strip_prefix("map_") {
            Some(function) => (true, function),
            None => (false, name),
        };
        let function = match function {
            "sum" => Function::Sum,
            "min" => Function::Min,
            "max" => Function::Max,
            _ => {
                return Err(Error::invalid(format!(
                    "there is no aggregation \"{name}\"; there are sum, min, max, map_sum, map_min and map_max"
                )));
            }
        };
        match arguments[..] {
            [column] if !column.is_empty() => Ok(Self {
                column: column.to_owned(),
                function,
                is_map,
            }),
            _ => Err(Error::invalid(format!(
                "{name} takes one column, as in {name}(column)"
            ))),
        }
    }

    fn fits(&self, column: &Column) -> bool {
        let is_right = match (&column.data_type, self.is_map) {
            (DataType::Map { value, .. }, true) => is_number(&value.data_type) && !value.nullable,
            (number, false) => is_number(number),
            _ => false,
        };
        is_right && !column.nullable
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = if self.is_map { "map_" } else { "" };
        let function = match self.function {
            Function::Sum => "sum",
            Function::Min => "min",
            Function::Max => "max",
        };
        write!(f, "aggregation {map}{function}({})", self.column)
    }
}

impl Filter {
    fn of((name, arguments): (&str, Vec<&str>)) -> Result<Self> {
        let right = || Error::invalid("a filter is ageOff(column,millis), as in ageOff(timestamp,3600000)");
        match (name, &arguments[..]) {
            ("ageOff" | "ageoff", [column, millis]) if !column.is_empty() => {
                let millis = millis
                    .parse()
                    .ok()
                    .filter(|millis| *millis >= 0)
                    .ok_or_else(right)?;
                Ok(Self::AgeOff {
                    column: (*column).to_owned(),
                    millis,
                })
            }
            _ => Err(right()),
        }
    }
}

/// Calls `name(argument,…)`, separated by commas.
fn calls(text: &str) -> Result<Vec<(&str, Vec<&str>)>> {
    let wrong = |rest: &str| {
        Error::invalid(format!(
            "\"{rest}\" is no call; rules are written as name(column), separated by commas"
        ))
    };
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('(').ok_or_else(|| wrong(rest))?;
        let (arguments, after) = after.split_once(')').ok_or_else(|| wrong(rest))?;
        found.push((name.trim(), arguments.split(',').map(str::trim).collect()));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) if !next.trim().is_empty() => next.trim(),
            None if after.is_empty() => "",
            _ => return Err(wrong(after)),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TimeUnit;

    fn schema() -> Schema {
        let map = DataType::Map {
            key: Box::new(Column::required("key", DataType::Utf8)),
            value: Box::new(Column::required("value", DataType::Int64)),
        };
        Schema::new(
            vec![Column::required("k", DataType::Utf8)],
            vec![Column::required("at", DataType::Int64)],
            vec![Column::required("n", DataType::Int32), Column::required("m", map)],
        )
        .unwrap()
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        let rules = RowRules::parse("ageOff(at, 1000)", " sum(n) ,map_max( m )").unwrap();
        assert_eq!(
            rules.filters,
            [Filter::AgeOff {
                column: "at".to_owned(),
                millis: 1000
            }]
        );
        let written: Vec<String> = rules.aggregations.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["aggregation sum(n)", "aggregation map_max(m)"]);
        rules.check(&schema()).unwrap();
        let json = serde_json::to_string(&rules).unwrap();
        assert_eq!(serde_json::from_str::<RowRules>(&json).unwrap(), rules);
        assert!(RowRules::parse("", " ").unwrap().is_empty());
        let at = Timestamp::from_millis(7);
        assert_eq!(RowRules::default().at(at), None);
        for (filters, aggregations) in [("ageOff(at,1)", ""), ("", "sum(n)")] {
            let rules = RowRules::parse(filters, aggregations).unwrap();
            assert!(!rules.is_empty());
            assert_eq!(rules.clone().at(at), Some(RulesAt { rules, at }));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (filters, aggregations, told) in [
            ("ageOff(at)", "", "ageOff(column,millis)"),
            ("ageOff(at,-1)", "", "ageOff(column,millis)"),
            ("ageOff(,1)", "", "ageOff(column,millis)"),
            ("older(at,1)", "", "ageOff(column,millis)"),
            ("ageOff(at,1", "", "\"ageOff(at,1\" is no call"),
            ("ageOff(at,1) ageOff(at,2)", "", "\"ageOff(at,2)\" is no call"),
            ("ageOff(at,1),", "", "\",\" is no call"),
            ("", "avg(n)", "there is no aggregation \"avg\""),
            ("", "map_avg(n)", "there is no aggregation \"map_avg\""),
            ("", "sum(n,m)", "sum takes one column"),
            ("", "sum()", "sum takes one column"),
            ("", "n", "\"n\" is no call"),
        ] {
            let error = RowRules::parse(filters, aggregations).unwrap_err();
            assert!(
                error.to_string().contains(told),
                "{filters} {aggregations}: {error}"
            );
        }
    }

    #[test]
    fn rules_fit_the_columns() {
        for (filters, aggregations, told) in [
            ("ageOff(gone,1)", "", "column \"gone\""),
            ("ageOff(n,1)", "", "column \"n\" is neither"),
            ("", "sum(n)", "\"m\" is named 0 times"),
            ("", "sum(n),max(n),map_sum(m)", "\"n\" is named 2 times"),
            (
                "",
                "sum(at),sum(n),map_sum(m)",
                "aggregation sum(at) names a column",
            ),
            ("", "sum(m),sum(n)", "aggregation sum(m) needs a number"),
            (
                "",
                "map_sum(n),map_sum(m)",
                "aggregation map_sum(n) needs a map of numbers",
            ),
        ] {
            let rules = RowRules::parse(filters, aggregations).unwrap();
            let error = rules.check(&schema()).unwrap_err();
            assert!(
                error.to_string().contains(told),
                "{filters} {aggregations}: {error}"
            );
        }
        let values = vec![
            Column::nullable("n", DataType::Int32),
            Column::nullable(
                "t",
                DataType::Timestamp {
                    unit: TimeUnit::Second,
                    timezone: None,
                },
            ),
        ];
        let schema = Schema::new(vec![Column::required("k", DataType::Utf8)], vec![], values).unwrap();
        RowRules::parse("ageOff(t,5)", "")
            .unwrap()
            .check(&schema)
            .unwrap();
        let nulls = RowRules::parse("", "sum(n),min(t)").unwrap();
        assert!(
            nulls
                .check(&schema)
                .unwrap_err()
                .to_string()
                .contains("without nulls")
        );
    }

    #[test]
    fn a_map_is_aggregated_when_all_its_values_are_numbers() {
        for (value, fits) in [
            (Column::required("value", DataType::Float32), true),
            (Column::nullable("value", DataType::Float32), false),
            (Column::required("value", DataType::Utf8), false),
        ] {
            let map = DataType::Map {
                key: Box::new(Column::required("key", DataType::Utf8)),
                value: Box::new(value),
            };
            let key = vec![Column::required("k", DataType::Utf8)];
            let schema = Schema::new(key, vec![], vec![Column::required("m", map)]).unwrap();
            let rules = RowRules::parse("", "map_min(m)").unwrap();
            assert_eq!(rules.check(&schema).is_ok(), fits, "{schema:?}");
        }
    }
}
