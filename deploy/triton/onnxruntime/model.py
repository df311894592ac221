"""Triton's `onnxruntime` backend in Python: serves a `backend: "onnxruntime"` config unchanged where Triton's own
build of that backend is not at hand.

Runs inside Triton, in the environment of services/local/requirements/triton.txt. That has numpy 1.26: with numpy 2 this
Triton answers empty tensors without an error.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

MODEL_FILE = "model.onnx"


class TritonPythonModel:
    """One instance of one version: one session, used by one thread."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        path = folder / (config.get("default_model_filename") or MODEL_FILE)
        options = _session_options(config)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [i["name"] for i in config["input"]]
        self._outputs = [o["name"] for o in config["output"]]

    def execute(self, requests):
        """One answer a request; all of them are embedded in one run."""
        inputs = {
            name: [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self._inputs
        }
        try:
            whole = {name: np.concatenate(parts) if len(parts) > 1 else parts[0] for name, parts in inputs.items()}
            results = self._session.run(self._outputs, whole)
        except Exception as error:
            if len(requests) == 1:
                return [pb_utils.InferenceResponse(error=_as_triton_error(error))]
            # one bad request must not fail the others
            return [response for request in requests for response in self.execute([request])]
        ends = np.cumsum([len(part) for part in inputs[self._inputs[0]]])[:-1]
        split = [np.split(result, ends) for result in results]
        return [self._response([parts[i] for parts in split]) for i in range(len(requests))]

    def _response(self, results):
        tensors = [pb_utils.Tensor(name, result) for name, result in zip(self._outputs, results, strict=True)]
        if any(tensor.as_numpy().size == 0 for tensor in tensors):
            error = pb_utils.TritonError("the backend made an empty tensor: is its numpy the pinned one?")
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _as_triton_error(error):
    wrong_input = isinstance(error, InvalidArgument)
    return pb_utils.TritonError(
        str(error), pb_utils.TritonError.INVALID_ARG if wrong_input else pb_utils.TritonError.INTERNAL
    )


def _session_options(config):
    """From the same model parameters that Triton's own backend reads."""
    parameters = config.get("parameters", {})

    def number(key):
        return int(parameters.get(key, {}).get("string_value", 0))

    instances = sum(group["count"] for group in config["instance_group"])
    options = onnxruntime.SessionOptions()
    # by itself each session would take all cores, and the instances would fight for them
    options.intra_op_num_threads = number("intra_op_thread_count") or max(1, len(os.sched_getaffinity(0)) // instances)
    options.inter_op_num_threads = number("inter_op_thread_count")
    if number("execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    # threads that wait by spinning take the cores from the gateway and the index
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
