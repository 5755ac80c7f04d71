"""The poller for Jenkins controllers."""
