"""Keys of builds and runs, facts, deployments, status tables, times. Imports nothing from the other packages."""
