"""Rules: host patterns, networks, the stages of a decision, and the table that C reads."""
