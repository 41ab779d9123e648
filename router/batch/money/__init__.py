"""What requests may cost and what limits leave them: the ledger for an event loop, and each batch's budget."""
