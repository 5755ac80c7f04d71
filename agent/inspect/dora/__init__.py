"""The figures of DORA, made of the deployments in the outbox."""
