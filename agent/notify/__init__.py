"""Notifications: conditions that need a person are reported to a command or a URL, once, and again when they end."""
