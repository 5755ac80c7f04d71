"""Delivery: from the outbox to Hivel, with patience."""
