//! `dormouse key`.

use std::{collections::BTreeSet, time::Duration};

use dormouse_core::{
    Result,
    tenants::{ApiKey, NewApiKey, Scope},
};
use serde::Serialize;

use super::Context;
use crate::{
    args::KeyCommand,
    printer::{self, Column},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// What scopes a key has that is made without any.
const USUAL_SCOPES: [Scope; 4] = [
    Scope::QueryExecute,
    Scope::BulkCreate,
    Scope::BulkRead,
    Scope::BulkCancel,
];

/// A new key with its text, which no other report has.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    key: &'a ApiKey,
    text: &'a str,
}

pub(super) async fn run(context: &Context, command: KeyCommand) -> Result<()> {
    let services = &context.instance.services;
    let (tenants, now) = (&services.tenants, services.ports.clock.now());
    match command {
        KeyCommand::Create {
            tenant,
            name,
            scopes,
            days,
        } => {
            let scopes = match scopes.is_empty() {
                true => BTreeSet::from(USUAL_SCOPES),
                false => scopes.into_iter().collect(),
            };
            let expires = days.map(|days| now.plus(DAY * days));
            show(
                context,
                &tenants.create_key(&tenant, &name, scopes, expires).await?,
            )
        }
        KeyCommand::Rotate {
            tenant,
            key,
            overlap_hours,
        } => {
            let until = now.plus(HOUR * overlap_hours);
            let new = tenants.rotate_key(&tenant, &key, until).await?;
            printer::note(&format!("key {key} is good until {until}"));
            show(context, &new)
        }
        KeyCommand::Revoke { tenant, key } => {
            let revoked = tenants.revoke_key(&tenant, &key).await?;
            context.printer.value(&revoked, |key| {
                format!("key {} of tenant {tenant} revoked", key.id)
            })
        }
        KeyCommand::List { tenant } => {
            let columns = [
                Column::Left("key"),
                Column::Left("name"),
                Column::Left("scopes"),
                Column::Left("made"),
                Column::Left("good until"),
            ];
            context
                .printer
                .list(&tenants.keys(&tenant).await?, &columns, row, "no keys")
        }
    }
}

fn show(context: &Context, new: &NewApiKey) -> Result<()> {
    printer::note(&format!(
        "key {} of tenant {}; its text is not kept, and not shown again:",
        new.key.id, new.key.tenant
    ));
    let shown = Shown {
        key: &new.key,
        text: &new.text,
    };
    context.printer.value(&shown, |shown| shown.text.to_owned())
}

fn row(key: &ApiKey) -> Vec<String> {
    let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let until = match (key.revoked, key.expires) {
        (Some(revoked), _) => format!("revoked {revoked}"),
        (None, Some(expires)) => expires.to_string(),
        (None, None) => String::new(),
    };
    vec![
        key.id.clone(),
        key.name.clone(),
        scopes.join(" "),
        key.created.to_string(),
        until,
    ]
}
