"""Default paths of the service. This module imports nothing, because `emit` loads it."""

DEFAULT_CONFIG = "/etc/hivel-agent/config.toml"
DEFAULT_OUTBOX = "/var/lib/hivel-agent/outbox.db"
DEFAULT_SPOOL = "/var/spool/hivel-agent"
# The password of the pages, beside the configuration.
WEB_PASSWORD = "web.password"  # noqa: S105 - the name of a file
