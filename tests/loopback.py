"""HTTP to servers of this machine. No certificates are read: for a new client that costs more than its calls."""

import ssl

import httpx

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def is_healthy(url: str) -> bool:
    """Whether `/health` below that URL answers well, now."""
    try:
        return httpx.get(f"{url}/health", timeout=1, verify=NO_CERTIFICATES).is_success
    except httpx.TransportError:
        return False
