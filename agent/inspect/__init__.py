"""What people ask of Jenkins and the outbox."""
