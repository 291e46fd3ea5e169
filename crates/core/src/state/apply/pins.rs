//! Readers' leases on states.

use super::{
    super::table_state::{Pin, TableState},
    Effect, Refusal,
};
use crate::{
    ids::{PinId, TransactionNumber},
    time::Timestamp,
};

impl TableState {
    /// A pin that has run out protects nothing any more, so it is forgotten before it could be extended.
    pub(super) fn take_pin(
        &mut self,
        id: &PinId,
        transaction: TransactionNumber,
        until: Timestamp,
    ) -> Result<Effect, Refusal> {
        let held = self.pins.get(id).filter(|pin| pin.is_live(self.at));
        let until = match held {
            Some(pin) if pin.transaction != transaction => {
                return Err(Refusal::conflict(format!(
                    "pin {id} holds transaction {}, not {transaction}",
                    pin.transaction
                )));
            }
            Some(pin) => pin.until.max(until),
            None => {
                let oldest = self.oldest_readable();
                if transaction < oldest || transaction > self.transaction {
                    return Err(Refusal::conflict(format!(
                        "transaction {transaction} cannot be pinned; those from {oldest} to {} can",
                        self.transaction
                    )));
                }
                until
            }
        };
        let expired: Vec<_> = self
            .pins
            .iter()
            .filter(|(_, pin)| !pin.is_live(self.at))
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.pins.remove(&id);
        }
        self.pins.insert(id.clone(), Pin { transaction, until });
        Ok(Effect::Changed)
    }
}
