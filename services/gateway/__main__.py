"""`python -m services.gateway`: reads the settings, wires the parts, serves until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

import uvloop
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc, status_pb2_grpc
from pydantic import ValidationError

from services.backends.cache import Cache
from services.backends.change_log import ChangeLog
from services.backends.coordination import Coordination
from services.backends.encoder import Encoder
from services.backends.gateway_registry import GatewayRegistry
from services.backends.image_store import ImageStore
from services.backends.index import Index
from services.backends.kept_loaded import KeptLoaded
from services.backends.live_samples import LiveSamples
from services.common.errors import LookalikeError
from services.common.images import ImageDecoder
from services.common.manifest import MODEL_NAME
from services.common.server import Server, until_signal
from services.common.telemetry import Metrics, configure_logging
from services.gateway import catalog_service, search_service, status_service
from services.gateway.cached_search import CachedSearch
from services.gateway.catalogue import Catalogue
from services.gateway.comparison import Comparison
from services.gateway.convert import encode_answer
from services.gateway.embedding import Embedder
from services.gateway.freshness import Freshness
from services.gateway.nearest import NearestProducts
from services.gateway.search import Searcher
from services.gateway.search_stats import SearchStats
from services.gateway.serving import Serving
from services.gateway.settings import GatewaySettings
from services.gateway.watch import Watch
from services.gateway.writes import Writes

_log = logging.getLogger("lookalike.gateway")


async def serve(settings: GatewaySettings) -> None:
    """Runs the gateway until SIGTERM or SIGINT.

    Raises:
        OSError: a port is in use.
        FailedPrecondition: the encoder's files are missing or damaged.
    """
    async with contextlib.AsyncExitStack() as stack:
        metrics = stack.enter_context(Metrics(settings.server.host, settings.server.metrics_port))
        encoder = await stack.enter_async_context(Encoder(settings.encoder))
        index = await stack.enter_async_context(Index(settings.index))
        cache = await stack.enter_async_context(Cache(settings.cache))
        images = await stack.enter_async_context(ImageStore(settings.image_store))
        decoder = await stack.enter_async_context(ImageDecoder(settings.search.decode_threads))
        coordination = await stack.enter_async_context(Coordination(settings.coordination))
        serving = Serving(settings.serving, settings.model_repository, index, encoder)
        models = settings.model_repository / MODEL_NAME
        await stack.enter_async_context(KeptLoaded(encoder, models, serving.versions))
        embedder = Embedder(settings.search, encoder, decoder, cache, settings.cache.embedding_ttl_s, serving, metrics)
        searcher = Searcher(index, embedder, NearestProducts(index, settings.search.exact_max_images), metrics)
        stats = SearchStats()
        comparison = await stack.enter_async_context(Comparison(searcher, serving, LiveSamples(coordination)))
        searches = CachedSearch(
            searcher,
            embedder,
            cache,
            settings.cache.result_ttl_s,
            index,
            serving,
            metrics,
            stats,
            comparison,
            encode_answer,
        )
        freshness = Freshness(settings.serving, cache, index, serving)
        writes = Writes(settings.serving, serving, ChangeLog(coordination), index)
        catalogue = Catalogue(settings.catalog, index, images, embedder, serving, writes, freshness, metrics)

        names = (catalog_service.NAME, search_service.NAME, status_service.NAME)
        server = Server(settings.server, metrics, names)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(
            catalog_service.CatalogService(settings.catalog, catalogue), server.grpc
        )
        search_pb2_grpc.add_SearchServiceServicer_to_server(search_service.SearchService(searches), server.grpc)
        status_pb2_grpc.add_StatusServiceServicer_to_server(
            status_service.StatusService(encoder, index, cache, images, serving), server.grpc
        )
        await stack.enter_async_context(server)
        address = f"{settings.server.host}:{server.port}"
        watch = Watch(settings.serving, serving, writes, GatewayRegistry(coordination), stats, address)
        stop = asyncio.create_task(until_signal())
        prepare = asyncio.create_task(serving.prepare())
        await asyncio.wait({stop, prepare}, return_when=asyncio.FIRST_COMPLETED)
        if prepare.done():
            prepare.result()
            await stack.enter_async_context(watch)
            await server.ready()
        await stop
        prepare.cancel()


def main() -> int:
    try:
        settings = GatewaySettings()
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
