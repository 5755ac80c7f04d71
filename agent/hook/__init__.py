"""The hook as a source of deployment events: what a pipeline reports of itself."""
