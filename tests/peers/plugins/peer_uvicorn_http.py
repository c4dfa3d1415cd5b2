"""Put `BoundedHttp`, or a subclass that does nothing, in the place of uvicorn's `HttpToolsProtocol`."""

from __future__ import annotations

import os
from typing import Any

from uvicorn.protocols.http import httptools_impl

from postfacta_adapters.uvicorn import BoundedHttp


class Same(httptools_impl.HttpToolsProtocol):
    """The protocol itself."""


_module: Any = httptools_impl
if os.environ["PEER_LANE"] != "plain":
    _module.HttpToolsProtocol = BoundedHttp if os.environ["PEER_LANE"] == "ours" else Same
