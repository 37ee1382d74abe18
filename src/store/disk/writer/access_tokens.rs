//! Writes changes of the access tokens.

use super::Writer;
use crate::store::{StoreError, TokenChange};

impl Writer {
    pub(super) fn change_tokens(&mut self, change: TokenChange) -> Result<(), StoreError> {
        self.registry_room()?;
        let rows = self.shared.tokens.rows_of(change, self.shared.clock.now())?;
        if rows.is_empty() {
            return Ok(());
        }
        self.tokens_tree.write(&rows)?;
        self.shared.tokens.apply(rows);
        Ok(())
    }
}
