"""The names under which a server of ours may be asked for.

A page of another site can have its own name lead to this machine ("DNS rebinding"). Its requests have that name in
their Host header, so a server refuses a name that is not its own.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Hosts:
    """The names under which a server may be asked for.

    Attributes:
        names: host names, in small letters.
        any_address: whether every IP address is taken; else those of this machine to itself alone.
    """

    names: frozenset[str]
    any_address: bool

    def allows(self, host: str) -> bool:
        """Whether a Host header, a name or address with a port or without, is one of the server's."""
        name = host_name(host)
        if name is None:
            return False
        try:
            address = ip_address(name)
        except ValueError:
            return name in self.names
        return self.any_address or address.is_loopback or name in self.names

    def allows_origin(self, origin: str) -> bool:
        """Whether the page that sends a request, such as http://localhost:7860, is the server's own."""
        scheme, separator, host = origin.partition("://")
        return scheme in ("http", "https") and bool(separator) and self.allows(host)


def host_name(header: str) -> str | None:
    """The name in a Host header, without its port, in small letters; None if it is none."""
    if any(letter in header for letter in "/@?#\\") or not header.isprintable():
        return None
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port  # raises ValueError if it is no number
    except ValueError:
        return None
    return parts.hostname.removesuffix(".") if parts.hostname else None


def served_hosts(host: str, allowed: Iterable[str] = ()) -> Hosts:
    """The names of a server that listens on the name or address `host`.

    More are `allowed`, of a proxy or of a name server; raises ValueError if one of them is no name.
    """
    more = [check_name(name) for name in allowed]
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host.lower() == "localhost"
    machine = socket.gethostname().lower()
    own = () if is_local else (machine, f"{machine}.local", host.lower())
    return Hosts(frozenset(["localhost", *own, *more]), any_address=not is_local)


def check_name(name: str) -> str:
    """The name in small letters; raises ValueError if it is no name of a host alone, without a port."""
    if host_name(name) != name.lower() or not name.strip() or " " in name:
        raise ValueError(
            f"--allow-host is {name!r}, but must be a name alone, without http:// and port, such as demo.example.org."
        )
    return name.lower()
