"""A local Jenkins: recorded or made-up jobs behind the URLs of a real one."""

from agent.sandbox.jenkins.app import Request
from agent.sandbox.jenkins.local import LocalJenkins
from agent.sandbox.jenkins.phases import Interrupted, Phase
from agent.sandbox.jenkins.replicas import ReplicatedJenkins
from agent.sandbox.jenkins.templates import FolderKind, JobKind
from agent.sandbox.jenkins.tree import TreeError

__all__ = ["FolderKind", "Interrupted", "JobKind", "LocalJenkins", "Phase", "ReplicatedJenkins", "Request", "TreeError"]
