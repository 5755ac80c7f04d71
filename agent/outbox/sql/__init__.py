"""The parts of the outbox whose statements are the same in all engines."""
