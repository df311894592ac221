"""TCP ports for the parts of the stack."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

from services.local.errors import PortInUse

# Below the range from which the system takes the source ports of connections: a part that was killed must find its
# port free when it comes back.
FREE_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen; 0 is any free port."""

    gateway: int = 0
    metrics: int = 0
    triton: int = 0
    milvus: int = 0
    redis: int = 0
    rollout: int = 0


class PortPicker:
    """Gives each port once."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def pick(self, part: str, wanted: int = 0, host: str = "127.0.0.1") -> int:
        """`wanted`, or a free one for 0. Raises PortInUse when `wanted` is taken."""
        if wanted:
            if wanted in self._given or not is_free(wanted, host):
                raise PortInUse(f"port {wanted} for {part} is in use; stop what listens there or choose another one")
            self._given.add(wanted)
            return wanted
        for port in random.sample(FREE_PORTS, k=500):
            if port not in self._given and is_free(port, host):
                self._given.add(port)
                return port
        raise PortInUse(f"no free port for {part} in {FREE_PORTS.start}..{FREE_PORTS.stop - 1}")


def is_free(port: int, host: str) -> bool:
    """Whether one could listen there; closed connections that linger do not count."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
        return True
