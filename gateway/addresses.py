"""Which addresses are inside: what a URL of a person must not lead to unless that is wanted."""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What the standard library takes for addresses of the internet, and is not: the old site-local ones of IPv6.
_INSIDE: Final = (ipaddress.ip_network("fec0::/10"),)

#: IPv6 addresses that stand for an IPv4 address in their last 32 bits (NAT64, and the old "compatible" form).
_EMBEDDING: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))


def is_public(text: str) -> bool:
    """True for an address of the internet; False for private, loopback, link-local, multicast and reserved ones, and for
    what is no address. An IPv6 address that stands for an IPv4 address is judged as that.
    """
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    inner = _meant(address)
    if any(inner in network for network in _INSIDE):
        return False
    return inner.is_global and not (inner.is_multicast or inner.is_reserved or inner.is_unspecified)


def _meant(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
