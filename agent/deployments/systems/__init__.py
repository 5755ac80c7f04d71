"""Fields of a report from CI systems' environment variables and Argo's resources."""
