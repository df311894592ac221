"""Builds a TensorRT plan of an encoder version, inside NVIDIA's TensorRT container, for the GPU it runs on.

    docker run --rm --gpus all -v lookalike_models:/models:ro -v lookalike_engines:/engines -v "$PWD":/lookalike:ro \\
        -e PYTHONPATH=/lookalike -w /lookalike nvcr.io/nvidia/tensorrt:26.09-py3 sh -c \\
        "pip install grpcio numpy onnx onnxruntime pillow && python3 deploy/triton/build_engine.py build 2"

The container must be of the same release as Triton's in docker-compose.yml: a plan works with the TensorRT that built
it. `docker-compose.gpu.yml` serves the plans (see engine_check.py); without any, Triton serves the ONNX files.

A plan is FP16 or INT8 (services/export/engine_graph.py says how), takes any batch of 1 to 32 and is tuned for 8. INT8
has the calibration of the version's own INT8 file. Before anything is built, the graph must reproduce the version's
golden vectors on ONNX Runtime: the gateway would not serve a plan that does not.

Written for TensorRT 10 and 11, whose Python API it was checked against by name and documentation. There was no GPU
where it was written: everything but `build_plan` is tested, and `build_plan` itself was never run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_check import MODEL, PLAN_FILE, Engine, EngineError, Host, problems, this_host, versions_in

if TYPE_CHECKING:
    import onnx

    from services.common.manifest import Manifest

# N: smallest, tuned for, largest; the last is max_batch_size in Triton
BATCHES = (1, 8, 32)
# what a layer's scratch memory may take
WORKSPACE_GIB = 4
NEEDED = ("PIL", "grpc", "numpy", "onnx", "onnxruntime", "services")

CONFIG = """\
# Written by deploy/triton/build_engine.py. Input and output are those of model_repository/image_encoder/config.pbtxt.
name: "{model}"
platform: "tensorrt_plan"
max_batch_size: {largest}

# S and D may differ between versions
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }} ]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ -1 ] }} ]

# callers name the version; a new one is loaded beside the old ones
version_policy: {{ all {{ }} }}

# a batch of 8 takes a GPU hardly longer than one picture: a millisecond of waiting for company pays
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: 1000
  default_queue_policy {{
    # more would wait longer than their callers do: refuse at once
    max_queue_size: 256
    timeout_action: REJECT
  }}
}}

# two on each GPU: one computes while the other's pictures travel
instance_group [ {{ count: 2 kind: KIND_GPU }} ]
"""


def config_text(batches: tuple[int, int, int] = BATCHES) -> str:
    """config.pbtxt of the repository of plans."""
    _, tuned, largest = batches
    preferred = [size for size in (tuned, 2 * tuned, largest) if tuned <= size <= largest]
    return CONFIG.format(model=MODEL, largest=largest, preferred=", ".join(map(str, dict.fromkeys(preferred))))


def timing_cache_path(folder: Path, host: Host) -> Path:
    """Where the times of layers are kept between builds: they hold for one GPU and one TensorRT."""
    gpu = re.sub(r"[^a-z0-9]+", "-", host.gpu.lower()).strip("-")
    return folder / f".timing-{host.tensorrt}-{gpu}.cache"


def graph_of(folder: Path, manifest: Manifest, precision: str) -> tuple[onnx.ModelProto, str, str]:
    """What TensorRT is to be given of a version, with the name and the sha256 of the file that it comes from.

    Raises EngineError when the version has no such file, when TensorRT would refuse the graph, or when it does not
    answer as the version does.
    """
    import numpy as np
    import onnx

    from services.common.manifest import GOLDEN_COSINE, golden_pixels
    from services.evaluation.inference import embed, open_session
    from services.export import engine_graph

    name, make = {"fp16": ("fp32", engine_graph.half), "int8": ("int8", engine_graph.symmetric)}[precision]
    variant = next((v for v in manifest.variants if v.precision == name), None)
    if variant is None:
        raise EngineError(f"version {manifest.version} has no {name} file, which a plan in {precision} is made of")
    graph = make(onnx.load(folder / variant.file))
    if found := engine_graph.problems(graph):
        raise EngineError("\n".join([f"TensorRT would refuse {folder / variant.file}:", *found]))
    pixels = np.stack([golden_pixels(golden.seed, manifest.side) for golden in manifest.golden])
    vectors = embed(open_session(graph.SerializeToString()), pixels)
    cosine = float(np.min(np.sum(vectors * manifest.golden_embeddings(), axis=1)))
    if not cosine >= GOLDEN_COSINE[manifest.served]:
        raise EngineError(
            f"in {precision}, version {manifest.version} does not reproduce its golden vectors: cosine {cosine:.4f}, "
            f"{GOLDEN_COSINE[manifest.served]} is needed where {manifest.served} is served"
        )
    return graph, variant.file, variant.sha256


def load_tensorrt() -> Any:
    """The module. Raises EngineError when there is none, or one before 10."""
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"there is no TensorRT here ({error}): run this inside nvcr.io/nvidia/tensorrt, see {Path(__file__).name}"
        ) from None
    if int(tensorrt.__version__.split(".")[0]) < 10:
        raise EngineError(f"TensorRT 10 or newer is needed, this is {tensorrt.__version__}")
    return tensorrt


def build_plan(tensorrt: Any, graph: bytes, side: int, timing_cache: Path) -> bytes:
    """The plan of a graph. Raises EngineError with what TensorRT says against it.

    Never run: see the top of this file.
    """
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    # TensorRT 11 knows nothing else; on 10 the graph's types would be hints without it
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError("\n".join(["TensorRT can't read the graph:", *errors]))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_GIB << 30)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((count, side, side, 3) for count in BATCHES))
    config.add_optimization_profile(profile)
    known = timing_cache.read_bytes() if timing_cache.exists() else b""
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("TensorRT can't build the plan; what it says against it stands above")
    write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def write_engine(engines: Path, engine: Engine, plan: bytes) -> Path:
    """Puts a plan into the repository of plans, whole or not at all; one of the same version goes."""
    from services.export.publish import move_in, staging

    target = engines / MODEL / str(engine.version)
    with staging(engines / MODEL) as folder:
        (folder / PLAN_FILE).write_bytes(plan)
        engine.write(folder)
        # before the version: Triton reads it together with what it finds beside it
        write_whole(engines / MODEL / "config.pbtxt", config_text().encode())
        move_in(folder, target)
    return target


def write_whole(path: Path, content: bytes) -> None:
    """Whoever looks sees the file as it was or as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def build(models: Path, engines: Path, version: int, precision: str | None) -> str:
    """Builds the plan of a version unless there is one that fits. Returns what to say; raises EngineError."""
    # a folder beside this file is called onnxruntime: without the real one, it would be imported in its place
    missing = [name for name in NEEDED if (spec := importlib.util.find_spec(name)) is None or not spec.origin]
    if missing:
        raise EngineError(f"{', '.join(missing)} can't be imported; how to call this is said in {Path(__file__).name}")
    from services.common.errors import LookalikeError
    from services.export.publish import verify

    tensorrt = load_tensorrt()
    host = this_host(tensorrt.__version__)
    folder, target = models / MODEL / str(version), engines / MODEL / str(version)
    try:
        manifest = verify(folder)
        precision = precision or ("int8" if manifest.served == "int8" else "fp16")
        if target.exists() and not problems(target, host, models) and Engine.read(target).precision == precision:
            return f"{target} fits: {precision} for {host.gpu}, TensorRT {host.tensorrt}"
        graph, source, sha256 = graph_of(folder, manifest, precision)
    except LookalikeError as error:
        raise EngineError(f"{error.message} ({error.reason})") from None
    plan = build_plan(tensorrt, graph.SerializeToString(), manifest.side, timing_cache_path(engines / MODEL, host))
    engine = Engine(
        version=version,
        precision=precision,
        source=source,
        source_sha256=sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        host=host,
        batches=BATCHES,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return f"{write_engine(engines, engine, plan)} built: {precision} for {host.gpu}, TensorRT {host.tensorrt}"


def check(models: Path, engines: Path) -> str:
    """Whether all plans fit this machine. Returns what to say; raises EngineError."""
    folders = versions_in(engines)
    host = this_host()
    if found := [problem for folder in folders for problem in problems(folder, host, models)]:
        raise EngineError("\n".join(found))
    return f"{len(folders)} plans fit {host.gpu}, TensorRT {host.tensorrt}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build and check TensorRT plans of encoder versions.")
    parser.add_argument("--models", type=Path, default=Path("/models"), help="model repository (/models)")
    parser.add_argument("--engines", type=Path, default=Path("/engines"), help="repository of plans (/engines)")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build the plan of a version")
    building.add_argument("version", type=int)
    building.add_argument("--precision", choices=("fp16", "int8"), help="default: int8 where int8 is served")
    commands.add_parser("check", help="compare all plans with this GPU and TensorRT")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            print(build(options.models, options.engines, options.version, options.precision))
        else:
            print(check(options.models, options.engines))
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
