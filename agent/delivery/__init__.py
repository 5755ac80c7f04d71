"""Delivery: sends what is in the outbox to Hivel, with retries."""
