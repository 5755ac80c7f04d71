"""Derives deployments from facts. Pure: no I/O, no clock."""
