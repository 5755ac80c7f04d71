"""The TOML file, tokens and paths as typed settings."""
