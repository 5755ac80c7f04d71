"""hivel-jenkins-agent: sends every Jenkins deployment to Hivel once."""

__version__ = "0.2.0"
