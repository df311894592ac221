"""The gRPC services of the rollout service."""

from __future__ import annotations

from google.longrunning import operations_pb2_grpc
from lookalike.v1 import model_pb2_grpc

from services.common import operations
from services.common.server import Server
from services.rollout import model_service
from services.rollout.controller import Controller
from services.rollout.operations import UNDELETABLE, RolloutWork

NAMES = (model_service.NAME, operations.NAME)


def add_services(rollouts: Controller, server: Server) -> None:
    model_pb2_grpc.add_ModelServiceServicer_to_server(model_service.ModelService(rollouts), server.grpc)
    operations_pb2_grpc.add_OperationsServicer_to_server(
        operations.OperationsService(RolloutWork(rollouts), UNDELETABLE), server.grpc
    )
