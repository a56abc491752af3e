# intent_ref: modules.addresses
"""Connections only to addresses that a tenant may reach: checked after the name is resolved, and then used as checked.

Checking a name and connecting to it later would ask the resolver twice, and it may answer differently (DNS rebinding).
"""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore

_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
"""Prefixes of any length lie in there (RFC 8215), so it cannot be told which IPv4 address is meant."""
_RESOLVE_SECONDS_MAX = 10.0


class AddressForbidden(Exception):
    """The host is, or resolves to, an address inside the platform's own network."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(f"{host} is at {address}, which is not a public address; modules may not be reached there.")
        self.host, self.address = host, address


def is_public(text: str) -> bool:
    """True for an address of the open internet. An IPv4 address inside an IPv6 one counts as what it is."""
    address = ip_address(text.split("%", 1)[0])
    if isinstance(address, IPv6Address):
        if address in _NAT64_LOCAL:
            return False
        inner = _embedded(address)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if int(address) >> 32 == 0 and int(address) > 1:
        return IPv4Address(int(address))
    return None


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects like httpcore's own backend, to the very address that was checked."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:  # fmt: skip
        """Raises `AddressForbidden` if any address of `host` is not public; else connects to the first that answers."""
        addresses = await self._resolve(host, port, timeout)
        if not self._allow_private:
            for address in addresses:
                if not is_public(address):
                    raise AddressForbidden(host, address)
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Never: a module is not a file."""
        raise AddressForbidden(path, "a Unix socket")

    async def sleep(self, seconds: float) -> None:
        """As httpcore asks for it."""
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int, timeout: float | None) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(min(timeout or _RESOLVE_SECONDS_MAX, _RESOLVE_SECONDS_MAX)):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as fault:
            raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time") from fault
        except (OSError, UnicodeError) as fault:
            raise httpcore.ConnectError(f"the name {host} does not resolve") from fault
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))
