"""From facts to deployments. Pure: no I/O, no clock."""
