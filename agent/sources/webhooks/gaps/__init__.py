"""Gap repair: asks the platforms for deployments whose webhook did not arrive."""
