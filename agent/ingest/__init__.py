"""Stores facts and the deployments derived from them."""
