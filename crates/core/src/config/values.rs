//! Values of properties: found by their keys, checked, and read as what they are.

use std::{collections::BTreeMap, time::Duration};

use super::properties::{Kind, PROPERTIES, Property, Scope};
use crate::{
    error::{Error, Result},
    ids::BucketName,
    predicate::Predicate,
    row_rules::RowRules,
};

fn strip_prefix(key: &str) -> &str {
    key.strip_prefix("dormouse.")
        .or_else(|| key.strip_prefix("sleeper."))
        .unwrap_or(key)
}

pub(super) fn find(key: &str, scope: Option<Scope>) -> Result<&'static Property> {
    let name = strip_prefix(key);
    let fits = |property: &&Property| scope.is_none_or(|scope| property.scope == scope);
    if let Some(property) = PROPERTIES
        .iter()
        .filter(fits)
        .find(|property| property.name == name)
    {
        return Ok(property);
    }
    let nearest = PROPERTIES
        .iter()
        .filter(fits)
        .map(|property| (strsim::damerau_levenshtein(property.name, name), property.name))
        .min()
        .map(|(_, name)| format!("; the nearest is \"dormouse.{name}\""))
        .unwrap_or_default();
    let what = if scope == Some(Scope::Table) {
        "table property"
    } else {
        "property"
    };
    Err(Error::invalid(format!("there is no {what} \"{key}\"{nearest}")))
}

pub(super) fn check(property: &Property, value: &str) -> Result<()> {
    let wrong = |right: &str| {
        Error::invalid(format!(
            "property \"dormouse.{}\" is \"{value}\"; it must be {right}",
            property.name
        ))
    };
    match property.kind {
        Kind::Count => value
            .parse::<u64>()
            .map(|_| ())
            .map_err(|_| wrong("a whole number")),
        Kind::Bytes => parse_bytes(value)
            .map(|_| ())
            .ok_or_else(|| wrong("a number of bytes, such as 512M or 2G")),
        Kind::Period => match parse_number(value).map(|number| number * seconds_of(property)) {
            Some(seconds) if seconds >= 0.1 => Ok(()),
            _ => Err(wrong("a number that makes at least 0.1 seconds")),
        },
        Kind::Time => parse_number(value)
            .map(|_| ())
            .ok_or_else(|| wrong("a number that is not negative")),
        Kind::Text => Ok(()),
        Kind::Predicate if value.is_empty() => Ok(()),
        Kind::Predicate => Predicate::new(value)
            .map(|_| ())
            .map_err(|error| not_rules(property, error)),
        Kind::Flag if ["true", "false"].contains(&value) => Ok(()),
        Kind::Flag => Err(wrong("true or false")),
        Kind::Word(words) if words.contains(&value) => Ok(()),
        Kind::Word(words) => Err(wrong(&format!("one of {}", words.join(", ")))),
        Kind::Filters => RowRules::parse(value, "")
            .map(|_| ())
            .map_err(|error| not_rules(property, error)),
        Kind::Aggregations => RowRules::parse("", value)
            .map(|_| ())
            .map_err(|error| not_rules(property, error)),
        Kind::Directories => match value.split(',').find(|path| !path.trim().starts_with('/')) {
            Some(_) if !value.is_empty() => Err(wrong("absolute paths, separated by commas")),
            _ => Ok(()),
        },
    }
}

fn not_rules(property: &Property, error: Error) -> Error {
    error.context(format!("property \"dormouse.{}\" is wrong", property.name))
}

fn parse_number(value: &str) -> Option<f64> {
    value
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && (0.0..1e12).contains(number))
}

fn parse_bytes(value: &str) -> Option<u64> {
    let (digits, shift) = match value.char_indices().last()? {
        (at, 'K' | 'k') => (&value[..at], 10),
        (at, 'M' | 'm') => (&value[..at], 20),
        (at, 'G' | 'g') => (&value[..at], 30),
        (at, 'T' | 't') => (&value[..at], 40),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(super) fn checked(
    pairs: impl IntoIterator<Item = (String, String)>,
    scope: Option<Scope>,
) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for (key, value) in pairs {
        let property = find(&key, scope)?;
        let value = value.trim().to_owned();
        check(property, &value)?;
        values.insert(property.name.to_owned(), value);
    }
    Ok(values)
}

pub(super) fn value<'a>(values: &'a BTreeMap<String, String>, property: &Property) -> &'a str {
    values.get(property.name).map_or(property.default, String::as_str)
}

pub(super) fn count(values: &BTreeMap<String, String>, property: &Property) -> u64 {
    value(values, property).parse().unwrap_or_default()
}

pub(super) fn text<'a>(values: &'a BTreeMap<String, String>, property: &Property) -> &'a str {
    value(values, property)
}

/// What commas separate.
pub(super) fn list(values: &BTreeMap<String, String>, property: &Property) -> Vec<String> {
    value(values, property)
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(super) fn flag(values: &BTreeMap<String, String>, property: &Property) -> bool {
    value(values, property) == "true"
}

pub(super) fn bytes(values: &BTreeMap<String, String>, property: &Property) -> u64 {
    parse_bytes(value(values, property)).unwrap_or_default()
}

pub(super) fn time(values: &BTreeMap<String, String>, property: &Property) -> Duration {
    let number = parse_number(value(values, property)).unwrap_or_default();
    Duration::from_secs_f64(number * seconds_of(property))
}

/// How many seconds the unit has that ends a property's name.
fn seconds_of(property: &Property) -> f64 {
    match property.name.rsplit('.').next() {
        Some("minutes") => 60.0,
        Some("hours") => 3600.0,
        Some("days") => 86400.0,
        _ => 1.0,
    }
}

pub(super) fn bucket(values: &BTreeMap<String, String>, property: &Property) -> Result<Option<BucketName>> {
    match value(values, property) {
        "" => Ok(None),
        name => BucketName::new(name)
            .map(Some)
            .map_err(|error| error.context(format!("property \"dormouse.{}\" is wrong", property.name))),
    }
}
