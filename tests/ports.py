"""Free TCP ports."""

import socket


def free_ports(count: int) -> list[int]:
    """Distinct free ports: each stays bound until the last is found."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def free_port() -> int:
    (port,) = free_ports(1)
    return port
