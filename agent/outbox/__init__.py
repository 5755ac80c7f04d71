"""The outbox: one SQLite row for each deployment event, from the moment it is known until it is delivered."""
