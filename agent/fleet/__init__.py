"""Several agents on one outbox: which of them polls which controller."""
