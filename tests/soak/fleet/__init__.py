"""The long run of several agents on one PostgreSQL."""
