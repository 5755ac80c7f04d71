"""Where facts come from. Sources do not know each other."""
