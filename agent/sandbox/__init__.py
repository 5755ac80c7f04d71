"""A local Hivel and a local Jenkins, to try a configuration, and for the demo and the tests."""
