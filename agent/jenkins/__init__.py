"""Jenkins as a source of deployment events: what is new, what a build says, which builds are deployments."""
