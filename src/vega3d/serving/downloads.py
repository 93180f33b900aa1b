"""Downloads of addresses that strangers give, from public machines alone.

Where a name leads is looked up once, checked, and connected to as checked, so a name that leads elsewhere at the next
look-up gains nothing. Every redirection is checked as the first address is.
"""

import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address
from urllib.parse import urljoin, urlsplit

import httpcore

SECONDS = 30.0  # of a download, from its begin to its end
REDIRECTIONS = 3
NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: no loopback, no private network, no link, no multicast."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ip_address(int(ip) & 0xFFFFFFFF)  # type: ignore[assignment]
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class CheckedConnections(httpcore.SyncBackend):
    """Connections to addresses that `is_allowed`; ValueError for a name of which one address is not."""

    def __init__(self, is_allowed: Callable[[str], bool]):
        super().__init__()
        self.is_allowed = is_allowed

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"the name {host!r} is not known") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not all(self.is_allowed(address) for address in addresses):
            raise ValueError(
                f"{host} is not on the public internet, and addresses of this machine and of private networks are "
                "refused"
            )
        return super().connect_tcp(addresses[0], port, timeout, local_address, socket_options)


def download(address: str, max_bytes: int, is_allowed: Callable[[str], bool] = is_public) -> bytes:
    """What lies at an http or https address, without a proxy and without decompression.

    Raises:
        ValueError: if the address or one that it redirects to is no such address or not allowed, nothing is there, it
            has more than `max_bytes`, or takes more than `SECONDS`.
    """
    deadline = time.monotonic() + SECONDS
    with httpcore.ConnectionPool(network_backend=CheckedConnections(is_allowed)) as pool:
        place = address
        for _ in range(REDIRECTIONS + 1):
            try:
                status, location, content = fetch(pool, place, max_bytes, deadline)
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ValueError) as error:
                raise ValueError(f"{address} cannot be fetched: {error or type(error).__name__}.") from error
            if content is not None:
                return content
            if location is None:
                raise ValueError(f"{address} cannot be fetched: it answers with status {status}.")
            place = urljoin(place, location)
    raise ValueError(f"{address} cannot be fetched: it redirects more than {REDIRECTIONS} times.")


def fetch(
    pool: httpcore.ConnectionPool, address: str, max_bytes: int, deadline: float
) -> tuple[int, str | None, bytes | None]:
    """The status of one answer, where it redirects to, and what it holds if that is what was asked for."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("only http and https addresses without a user's name are fetched")
    headers = [("Host", parts.netloc), ("User-Agent", "vega3d"), ("Accept-Encoding", "identity")]
    timeout = {kind: max(0.1, deadline - time.monotonic()) for kind in ("connect", "read", "write", "pool")}
    with pool.stream("GET", ascii_url(address), headers=headers, extensions={"timeout": timeout}) as response:
        answer = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in (301, 302, 303, 307, 308):
            return response.status, answer.get(b"location"), None
        if response.status != 200:
            return response.status, None, None
        if int(answer.get(b"content-length", 0)) > max_bytes:
            raise ValueError(f"it has {answer[b'content-length']} bytes, but at most {max_bytes} are taken")
        content = bytearray()
        for piece in response.iter_stream():
            content += piece
            if len(content) > max_bytes:
                raise ValueError(f"it has more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"it takes more than {SECONDS:.0f} s")
        return response.status, None, bytes(content)


def ascii_url(address: str) -> str:
    """The address for the request; raises ValueError for one with spaces or letters beyond ASCII."""
    if not address.isascii() or not address.isprintable() or " " in address:
        raise ValueError("it holds spaces or letters beyond ASCII. Write them as %20 and the like")
    return address.partition("#")[0]
