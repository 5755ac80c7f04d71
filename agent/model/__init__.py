"""Build and run keys, facts, deployments, status tables, times. It knows nothing above it."""
