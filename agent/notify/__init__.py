"""Notifications: reports conditions that need a person to a command or a URL, and reports when they end."""
