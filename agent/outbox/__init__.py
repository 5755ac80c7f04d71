"""The outbox: the durable store of facts, deployments and cursors."""
