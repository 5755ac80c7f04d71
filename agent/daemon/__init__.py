"""The service: composition, schedule, signals, logs, HTTP listeners."""
