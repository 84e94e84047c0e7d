"""Which rule decides: host patterns, addresses that may be dialled, and the table that C reads."""
