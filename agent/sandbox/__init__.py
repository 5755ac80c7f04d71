"""Local stand-ins for Hivel and Jenkins: to try a configuration, for the demo and for the tests."""
