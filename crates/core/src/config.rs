//! Properties: every key, default and explanation, and how values are found.
//!
//! A key is `dormouse.<name>`; the same name under `sleeper.` is read too. An instance's properties come from
//! its `instance.properties` and the environment (`DORMOUSE_<NAME>`, dots as underscores), a table's from the
//! index. A table property that is set for the instance is the default of its tables.

mod properties;
mod settings;
mod values;

pub use properties::{Kind, PROPERTIES, Property, Scope, reference_page};
pub use settings::{CommitMode, InstanceSettings, TableSettings};
