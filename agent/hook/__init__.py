"""The post-stage hook: builds that report their own deployments, here or on any other CI system."""
