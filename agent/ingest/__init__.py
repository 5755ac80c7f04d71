"""The one door into the outbox: facts in, deployments out."""
