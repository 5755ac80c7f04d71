"""Readers of the bodies that each platform sends."""
