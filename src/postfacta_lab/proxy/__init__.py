"""A TCP proxy that breaks connections on request, through the HTTP API of Toxiproxy 2.12."""

from .client import Toxiproxy, ToxiproxyError, fault_proxy

__all__ = ["Toxiproxy", "ToxiproxyError", "fault_proxy"]
