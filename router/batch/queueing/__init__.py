"""Who waits, and whose turn it is; knows nothing of what the entries are."""
