"""A local Hivel: the Deployment Events API v2 as described by Hivel's page, and faults that can be injected.

It is meant for a loopback address. The received events (``GET /``, ``GET /api/deployments``) and the faults
(``/_faults``) require no token; only the endpoint itself does.
"""

from agent.sandbox.hivel.faults import Fault
from agent.sandbox.hivel.local import ENDPOINT, MAX_BODY, LocalHivel
from agent.sandbox.hivel.store import Deployment, ReceivedRequest

__all__ = ["ENDPOINT", "MAX_BODY", "Deployment", "Fault", "LocalHivel", "ReceivedRequest"]
