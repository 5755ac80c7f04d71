"""The sources of facts. They are independent of each other."""
