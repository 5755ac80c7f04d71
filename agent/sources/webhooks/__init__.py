"""Webhooks of CI and CD platforms: each tells the agent about ended deployments."""
