"""A local Hivel: the Deployment Events API v2 as Hivel's page describes it, and ways to make it misbehave.

It is a stand-in for a loopback address. Reading what was received (``GET /``, ``GET /api/deployments``) and
the faults (``/_faults``) need no token; only the endpoint itself does.
"""

from agent.sandbox.hivel.faults import Fault
from agent.sandbox.hivel.local import ENDPOINT, MAX_BODY, LocalHivel
from agent.sandbox.hivel.store import Deployment, ReceivedRequest

__all__ = ["ENDPOINT", "MAX_BODY", "Deployment", "Fault", "LocalHivel", "ReceivedRequest"]
