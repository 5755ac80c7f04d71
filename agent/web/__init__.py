"""The web pages: what was deployed, what waits, what failed, and why."""
