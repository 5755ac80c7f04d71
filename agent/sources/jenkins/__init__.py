"""Polling Jenkins controllers."""
