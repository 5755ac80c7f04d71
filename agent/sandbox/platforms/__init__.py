"""Stand-ins of the platforms' APIs, which can also send the webhooks of their deployments."""

from agent.sandbox.platforms.local import LocalPlatform
from agent.sandbox.platforms.model import Deployed

__all__ = ["Deployed", "LocalPlatform"]
