"""The agent as a service in a real systemd: a Debian that is booted in a container. ``make container-test`` runs it."""
