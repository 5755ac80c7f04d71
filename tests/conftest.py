"""The same examples in every run, others with ``HYPOTHESIS_PROFILE=explore``; without deadlines: how fast a machine is
says nothing about the code.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
