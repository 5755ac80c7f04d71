"""Input that somebody else chose, in any shape: see README.md beside this file."""
