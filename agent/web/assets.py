"""Style sheet, scripts and icon. Their names contain a hash of their content, so browsers keep them for ever."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.responses import Response

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


class Assets:
    """The files of ``static/``, read once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._bodies: dict[str, tuple[bytes, str]] = {}
        for file in files("agent.web").joinpath("static").iterdir():
            stem, dot, ending = file.name.rpartition(".")
            media_type = _TYPES.get(dot + ending)
            if media_type is None:
                continue
            body = file.read_bytes()
            name = f"{stem}.{hashlib.sha256(body).hexdigest()[:12]}.{ending}"
            self._names[file.name] = name
            self._bodies[name] = body, media_type

    def path(self, name: str) -> str:
        """The path of the file ``style.css``, without the prefix."""
        return f"/static/{self._names[name]}"

    def response(self, name: str) -> Response | None:
        """None: there is no such file."""
        if name not in self._bodies:
            return None
        body, media_type = self._bodies[name]
        return Response(body, headers={"Cache-Control": _FOREVER}, media_type=media_type)
