"""`python -m services.rollout`: reads the settings, wires the parts, serves until SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import sys

import uvloop
from pydantic import ValidationError

from services.backends.change_log import ChangeLog
from services.backends.coordination import Coordination
from services.backends.encoder import Encoder
from services.backends.gateway_registry import GatewayRegistry
from services.backends.image_store import ImageStore
from services.backends.index import Index
from services.backends.live_samples import LiveSamples
from services.common.errors import LookalikeError
from services.common.images import ImageDecoder
from services.common.manifest import MODEL_NAME
from services.common.server import Server, until_signal
from services.common.telemetry import Metrics, configure_logging
from services.rollout.agreement import Agreement
from services.rollout.lease import Lease
from services.rollout.mirroring import Parts
from services.rollout.pace import Pace
from services.rollout.rollouts import Rollouts
from services.rollout.services import NAMES, add_services
from services.rollout.settings import RolloutSettings

_log = logging.getLogger("lookalike.rollout")


async def serve(settings: RolloutSettings) -> None:
    """Runs the rollout service until SIGTERM or SIGINT; a rollout stops where it is, and goes on at the next start.

    Neither Redis nor any other part must be up: what needs one waits for it.

    Raises:
        OSError: a port is in use.
    """
    async with contextlib.AsyncExitStack() as stack:
        metrics = stack.enter_context(Metrics(settings.server.host, settings.server.metrics_port))
        server = Server(settings.server, metrics, NAMES)
        add_services(await _rollouts(settings, stack), server)
        await stack.enter_async_context(server)
        await server.ready()
        await until_signal()


async def _rollouts(settings: RolloutSettings, stack: contextlib.AsyncExitStack) -> Rollouts:
    """What walks, with all it works with; it begins once it holds the lease."""
    encoder = await stack.enter_async_context(Encoder(settings.encoder))
    coordination = await stack.enter_async_context(Coordination(settings.coordination))
    lease = Lease(coordination)
    index = await stack.enter_async_context(Index(settings.index, permit=lease.confirm))
    images = await stack.enter_async_context(ImageStore(settings.image_store))
    decoder = await stack.enter_async_context(ImageDecoder(settings.rollout.decode_threads))
    log, registry = ChangeLog(coordination), GatewayRegistry(coordination)
    parts = Parts(
        models=settings.model_repository / MODEL_NAME,
        index=index,
        encoder=encoder,
        images=images,
        decoder=decoder,
        log=log,
        samples=LiveSamples(coordination),
        agreement=Agreement(index, registry, log),
        pace=await stack.enter_async_context(Pace(registry)),
    )
    # left in the other order: what walks stops before the lease is given up
    await stack.enter_async_context(lease)
    return await stack.enter_async_context(Rollouts(parts, lease))


def main() -> int:
    try:
        settings = RolloutSettings()
        configure_logging(settings.server.log_level)
    except (ValidationError, ValueError) as error:
        print(f"the settings are wrong: {error}", file=sys.stderr)
        return 2
    try:
        uvloop.run(serve(settings))
    except (OSError, LookalikeError) as error:
        _log.error("cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
