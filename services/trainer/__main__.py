"""`python -m services.trainer`: reads the settings, wires the parts, serves until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import sys

from google.longrunning import operations_pb2_grpc
from lookalike.v1 import training_pb2_grpc
from pydantic import ValidationError

from services.common import operations
from services.common.server import Server, until_signal
from services.common.telemetry import Metrics, configure_logging
from services.trainer import training_service
from services.trainer.launcher import Launcher
from services.trainer.operations import UNDELETABLE, TrainingWork
from services.trainer.settings import TrainerSettings
from services.trainer.trainings import Trainings

_log = logging.getLogger("lookalike.trainer")


async def serve(settings: TrainerSettings) -> None:
    """Runs the trainer until SIGTERM or SIGINT; what is being trained then is stopped and can be resumed.

    Raises:
        OSError: a port is in use.
    """
    group = settings.trainer
    launcher = Launcher(
        group.runs, settings.model_repository, group.python, group.device, group.worker, group.stop_grace_s
    )
    with Metrics(settings.server.host, settings.server.metrics_port) as metrics:
        server = Server(settings.server, metrics, (training_service.NAME, operations.NAME))
        async with Trainings(launcher) as trainings:
            training_pb2_grpc.add_TrainingServiceServicer_to_server(
                training_service.TrainingService(trainings, group.data), server.grpc
            )
            operations_pb2_grpc.add_OperationsServicer_to_server(
                operations.OperationsService(TrainingWork(trainings), UNDELETABLE), server.grpc
            )
            async with server:
                await server.ready()
                await until_signal()
                # before requests are drained, for some of them wait for it
                await trainings.close()


def main() -> int:
    try:
        settings = TrainerSettings()
        configure_logging(settings.server.log_level)
    except (ValidationError, ValueError) as error:
        print(f"the settings are wrong: {error}", file=sys.stderr)
        return 2
    try:
        # not uvloop: it starts processes by fork, which the threads of gRPC do not bear; asyncio does it by vfork
        asyncio.run(serve(settings))
    except OSError as error:
        _log.error("cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
