"""The TOML file, secrets and paths, as one set of typed settings."""
