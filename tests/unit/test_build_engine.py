"""The TensorRT build, up to TensorRT: the graphs it is given, Triton's configuration, and what is refused where."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from services.common.errors import FailedPrecondition
from services.common.manifest import GOLDEN_COSINE, MODEL_NAME, golden_pixels
from services.evaluation.inference import embed, open_session
from services.evaluation.metrics import mean_cosine
from services.export import bundled, contract, engine_graph
from services.export.publish import Candidate, publish
from services.export.quantize import quantize
from tests.unit.test_export import ORIGIN, tiny

ROOT = Path(__file__).resolve().parents[2]
TRITON = ROOT / "deploy" / "triton"
# at the end: a folder there is called onnxruntime
sys.path.append(str(TRITON))

import build_engine  # noqa: E402
import engine_check  # noqa: E402
from engine_check import Engine, EngineError, Host  # noqa: E402

HOST = Host("NVIDIA L4", "8.9", "11.4.0")


@pytest.fixture(scope="module")
def encoder() -> onnx.ModelProto:
    return bundled.build()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([golden_pixels(seed, bundled.SIDE) for seed in range(1, 13)])


@pytest.fixture(scope="module")
def int8(encoder: onnx.ModelProto, pictures: np.ndarray) -> onnx.ModelProto:
    return quantize(encoder, pictures[:8])


def vectors(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    return embed(open_session(model.SerializeToString(), threads=1), pixels)


def operators(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == name]


class TestHalf:
    def test_it_answers_as_float_does(self, encoder: onnx.ModelProto, pictures: np.ndarray) -> None:
        made = engine_graph.half(encoder)
        answered, exact = vectors(made, pictures[:4]), vectors(encoder, pictures[:4])
        assert answered.dtype == np.float32
        assert np.sum(answered * exact, axis=1).min() >= GOLDEN_COSINE["fp32"]
        # and is not float32 all the same
        assert np.abs(answered - exact).max() > 0

    def test_what_is_between_head_and_tail_is_float16(self, encoder: onnx.ModelProto) -> None:
        made = engine_graph.half(encoder)
        assert engine_graph.problems(made) == []
        types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(made).graph.value_info}
        convolutions = operators(made, "Conv")
        assert len(convolutions) == 53
        assert {types[node.output[0]] for node in convolutions} == {TensorProto.FLOAT16}
        assert types[contract.HEAD_NODES[1]] == types[contract.TAIL_NODES[0]] == TensorProto.FLOAT
        assert contract.check(made) == contract.check(encoder)

    def test_constants_and_casts_inside_change_with_it(self) -> None:
        """float32 hides in attributes too."""
        pixels = np.stack([golden_pixels(seed, 16) for seed in (1, 2)])
        model = with_nodes(
            tiny(),
            helper.make_node("Constant", [], ["half"], "half", value_float=0.5),
            helper.make_node("Constant", [], ["one"], "one", value=numpy_helper.from_array(np.float32(1))),
            helper.make_node("Mul", ["r", "half"], ["m"], "m"),
            helper.make_node("Cast", ["m"], ["cast"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Add", ["cast", "one"], ["a"], "a"),
        )
        made = engine_graph.half(model)
        assert engine_graph.problems(made) == []
        assert mean_cosine(vectors(made, pixels), vectors(model, pixels)) > GOLDEN_COSINE["fp32"]


class TestSymmetric:
    def test_it_answers_nearly_as_the_int8_file_does(self, int8: onnx.ModelProto, pictures: np.ndarray) -> None:
        made = engine_graph.symmetric(int8)
        cosines = np.sum(vectors(made, pictures[8:]) * vectors(int8, pictures[8:]), axis=1)
        assert cosines.min() >= GOLDEN_COSINE["int8"]

    def test_it_holds_nothing_that_tensorrt_refuses(self, encoder: onnx.ModelProto, int8: onnx.ModelProto) -> None:
        made = engine_graph.symmetric(int8)
        assert engine_graph.problems(made) == []
        assert contract.check(made) == contract.check(encoder)
        tensors = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
        zeros = [
            tensors[n.input[2]] for n in (*operators(made, "QuantizeLinear"), *operators(made, "DequantizeLinear"))
        ]
        assert len(zeros) > 150
        assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
        assert not any(zero.any() for zero in zeros)
        # biases are float, weights are not
        convolutions = operators(made, "Conv")
        assert {tensors[node.input[2]].dtype for node in convolutions} == {np.dtype(np.float32)}
        assert not any(node.input[1] in tensors for node in convolutions)

    def test_the_relus_that_unsigned_integers_stood_for_are_back(
        self, encoder: onnx.ModelProto, int8: onnx.ModelProto
    ) -> None:
        assert not operators(int8, "Relu")  # otherwise this shows nothing
        assert len(operators(engine_graph.symmetric(int8), "Relu")) == len(operators(encoder, "Relu")) == 49

    def test_the_calibration_is_that_of_the_file(self, int8: onnx.ModelProto) -> None:
        before, after = (
            {node.name: [tensors[name] for name in node.input[1:]] for node in operators(model, "QuantizeLinear")}
            for model in (int8, engine_graph.symmetric(int8))
            for tensors in [{i.name: numpy_helper.to_array(i) for i in model.graph.initializer}]
        )
        assert before.keys() == after.keys()
        for name, (scale, zero) in before.items():
            reach = max(int(zero), 255 - int(zero)) * float(scale)
            assert float(after[name][0]) * 127 == pytest.approx(reach, rel=1e-5)

    def test_a_float_file_is_refused(self) -> None:
        with pytest.raises(FailedPrecondition) as raised:
            engine_graph.symmetric(tiny())
        assert raised.value.reason == "MODEL_NOT_QUANTIZED"

    def test_constants_are_requantised(self) -> None:
        """An unsigned constant that is added: rare, but what it stands for must not change."""
        values = np.array([0, 10, 128, 255], np.uint8).repeat(2)
        model = quantize(tiny(), np.stack([golden_pixels(seed, 16) for seed in range(8)]))
        model = with_nodes(
            model,
            helper.make_node("DequantizeLinear", ["c8", "s8", "z8"], ["constant"], "constant"),
            helper.make_node("Add", ["SOURCE", "constant"], ["a"], "a"),
            source=operators(model, "GlobalAveragePool")[0].input[0],
            weights=[
                numpy_helper.from_array(values.reshape(1, 8, 1, 1), "c8"),
                numpy_helper.from_array(np.float32(0.5), "s8"),
                numpy_helper.from_array(np.uint8(100), "z8"),
            ],
        )
        made = engine_graph.symmetric(model)
        assert engine_graph.problems(made) == []
        tensors = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
        (node,) = (n for n in made.graph.node if n.name == "constant")
        stored = tensors[node.input[0]].astype(np.float32).ravel() * tensors[node.input[1]]
        np.testing.assert_allclose(stored, (values.astype(np.float32) - 100) * 0.5, atol=0.5 * 155 / 127)


class TestProblems:
    def test_the_files_of_a_version_as_they_are(self, encoder: onnx.ModelProto, int8: onnx.ModelProto) -> None:
        assert engine_graph.problems(encoder) == []
        found = engine_graph.problems(int8)
        assert any("zero point must be int8 and 0, not uint8" in line for line in found)
        assert any("zero point must be int8 and 0, not int32" in line for line in found)

    @pytest.mark.parametrize(
        ("node", "problem"),
        [
            (helper.make_node("Det", ["r"], ["a"], "a"), "a: operator ai.onnx.Det"),
            (helper.make_node("Gelu", ["r"], ["a"], "a", domain="com.microsoft"), "a: operator com.microsoft.Gelu"),
            (
                helper.make_node("MaxPool", ["r"], ["a"], "a", kernel_shape=[2, 2], dilations=[2, 2]),
                "a: dilated pooling",
            ),
            (helper.make_node("MaxPool", ["r"], ["a", "i"], "a", kernel_shape=[2, 2]), "a: indices of the maximum"),
            (helper.make_node("Transpose", ["image"], ["a"], "a"), "a: computes with uint8"),
        ],
    )
    def test_each_is_named(self, node: onnx.NodeProto, problem: str) -> None:
        model = tiny()
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        model.graph.node.append(node)
        assert problem in engine_graph.problems(model)

    def test_a_free_dimension_and_an_old_opset(self) -> None:
        model = tiny()
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "S"
        assert "image: a dimension other than N is free" in engine_graph.problems(model)
        model = tiny()
        model.opset_import[0].version = 21
        assert "opset 21" in engine_graph.problems(model)

    def test_features_are_not_part_of_a_plan(self) -> None:
        model = tiny(features="r")
        assert [o.name for o in model.graph.output] == ["embedding", "features"]
        made = engine_graph.half(model)
        assert [o.name for o in made.graph.output] == ["embedding"]
        assert engine_graph.problems(made) == []


def with_nodes(
    model: onnx.ModelProto, *nodes: onnx.NodeProto, source: str = "r", weights: list[onnx.TensorProto] | None = None
) -> onnx.ModelProto:
    """A copy with nodes from `source` to `a` in front of its pool."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    place = next(i for i, node in enumerate(made.graph.node) if node.op_type == "GlobalAveragePool")
    after = list(made.graph.node)[place:]
    del made.graph.node[place:]
    after[0].input[0] = "a"
    for node in nodes:
        node.input[:] = [source if name == "SOURCE" else name for name in node.input]
    made.graph.node.extend([*nodes, *after])
    made.graph.initializer.extend(weights or [])
    contract.check(made)
    return made


class TestConfig:
    @pytest.fixture
    def config(self) -> model_config_pb2.ModelConfig:
        return text_format.Parse(build_engine.config_text(), model_config_pb2.ModelConfig())

    def test_input_and_output_are_those_of_the_onnx_repository(self, config: model_config_pb2.ModelConfig) -> None:
        text = (ROOT / "model_repository" / MODEL_NAME / "config.pbtxt").read_text()
        ours = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.name, list(config.input), list(config.output)) == (
            ours.name,
            list(ours.input),
            list(ours.output),
        )
        assert config.version_policy == ours.version_policy
        assert config.max_batch_size == ours.max_batch_size
        assert config.dynamic_batching.default_queue_policy == ours.dynamic_batching.default_queue_policy

    def test_it_serves_plans_on_a_gpu_in_batches_they_take(self, config: model_config_pb2.ModelConfig) -> None:
        assert (config.platform, config.backend) == ("tensorrt_plan", "")
        assert {group.kind for group in config.instance_group} == {model_config_pb2.ModelInstanceGroup.KIND_GPU}
        assert config.instance_group[0].count >= 2
        smallest, tuned, largest = build_engine.BATCHES
        assert (smallest, tuned, largest) == (1, 8, 32)
        assert config.max_batch_size == largest
        assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 32]

    def test_other_batches(self) -> None:
        config = text_format.Parse(build_engine.config_text((1, 4, 4)), model_config_pb2.ModelConfig())
        assert list(config.dynamic_batching.preferred_batch_size) == [4]
        assert config.max_batch_size == 4


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A repository with a plan of version 2, built for HOST; the plan is not one."""
    models = tmp_path / "models"
    manifest = publish(models / MODEL_NAME, 2, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
    plan = b"a plan"
    engine = Engine(
        version=2,
        precision="fp16",
        source="model_fp32.onnx",
        source_sha256=manifest.served_variant.sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        host=HOST,
        batches=build_engine.BATCHES,
        created="2026-01-01T00:00:00+00:00",
    )
    build_engine.write_engine(tmp_path / "engines", engine, plan)
    return tmp_path / "engines"


class TestCheck:
    def test_what_is_written_fits(self, engines: Path) -> None:
        (folder,) = engine_check.versions_in(engines)
        assert folder == engines / MODEL_NAME / "2"
        assert Engine.read(folder).host == HOST
        assert engine_check.problems(folder, HOST, engines.parent / "models") == []
        assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "model.plan"]
        assert (engines / MODEL_NAME / "config.pbtxt").read_text() == build_engine.config_text()
        assert not [*folder.parent.glob(".staging-*"), *folder.parent.glob("*.partial")]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"gpu": "NVIDIA A10"}, "built for GPU NVIDIA L4, here it is NVIDIA A10"),
            ({"compute_capability": "9.0"}, "built for compute capability 8.9, here it is 9.0"),
            ({"tensorrt": "11.4.1"}, "built for TensorRT 11.4.0, here it is 11.4.1"),
        ],
    )
    def test_another_host_is_refused(self, engines: Path, changes: dict[str, str], problem: str) -> None:
        folder = engines / MODEL_NAME / "2"
        assert engine_check.problems(folder, dataclasses.replace(HOST, **changes)) == [f"{folder}: {problem}"]

    def test_damage_and_other_sources_are_refused(self, engines: Path) -> None:
        folder, models = engines / MODEL_NAME / "2", engines.parent / "models"
        publish(models / MODEL_NAME, 2, (Candidate("fp32", tiny(seed=1)),), "fp32", ORIGIN, replace=True)
        (folder / "model.plan").write_bytes(b"another")
        moved = folder.rename(folder.with_name("3"))
        found = "\n".join(engine_check.problems(moved, HOST, models))
        assert "built from version 2" in found
        assert "model.plan is missing or not what engine.json says" in found
        moved.rename(folder)
        assert "is not the file it was built from" in "\n".join(engine_check.problems(folder, HOST, models))

    @pytest.mark.parametrize("content", [None, "{", "{}", '{"version": 2}', "[]"])
    def test_an_engine_without_its_manifest_is_refused(self, engines: Path, content: str | None) -> None:
        path = engines / MODEL_NAME / "2" / "engine.json"
        path.unlink()
        if content is not None:
            path.write_text(content)
        (problem,) = engine_check.problems(path.parent, HOST)
        assert "engine.json can't be read" in problem

    def test_a_plan_is_replaced_by_a_newer_one(self, engines: Path) -> None:
        engine = Engine.read(engines / MODEL_NAME / "2")
        newer = dataclasses.replace(engine, plan_sha256=hashlib.sha256(b"newer").hexdigest())
        folder = build_engine.write_engine(engines, newer, b"newer")
        assert engine_check.problems(folder, HOST) == []
        assert (folder / "model.plan").read_bytes() == b"newer"


class TestHost:
    def test_what_nvidia_smi_says(self) -> None:
        assert engine_check.gpu_of("NVIDIA L4, 8.9\nNVIDIA L4, 8.9\n") == ("NVIDIA L4", "8.9")
        with pytest.raises(EngineError, match="NVIDIA A10 and NVIDIA L4"):
            engine_check.gpu_of("NVIDIA L4, 8.9\nNVIDIA A10, 8.6\n")
        with pytest.raises(EngineError, match="no GPU"):
            engine_check.gpu_of("\n")

    def test_versions(self) -> None:
        assert engine_check.version_of(110400) == engine_check.short_version("11.4.0.106") == "11.4.0"
        assert engine_check.version_of(101303) == "10.13.3"
        with pytest.raises(EngineError, match="TensorRT 10 or newer"):
            engine_check.version_of(8601)

    def test_timing_caches_are_apart(self, tmp_path: Path) -> None:
        path = build_engine.timing_cache_path(tmp_path, HOST)
        assert path == tmp_path / ".timing-11.4.0-nvidia-l4.cache"
        others = [
            dataclasses.replace(HOST, **changes)
            for changes in ({"gpu": "NVIDIA L40"}, {"tensorrt": "11.4.1"}, {"gpu": "NVIDIA GeForce RTX 4090 / 24GB"})
        ]
        paths = {build_engine.timing_cache_path(tmp_path, host) for host in (HOST, *others)}
        assert len(paths) == 4
        assert {each.parent for each in paths} == {tmp_path}

    def test_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(EngineError, match="no NVIDIA GPU is visible"):
            engine_check.this_host("11.4.0")

    def test_with_a_gpu_and_without_tensorrt(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\necho 'NVIDIA L4, 8.9'\n")
        smi.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert engine_check.this_host("11.4.0.106") == HOST
        monkeypatch.setattr(engine_check.ctypes.util, "find_library", lambda name: None)
        with pytest.raises(EngineError, match="there is no TensorRT here"):
            engine_check.this_host()


class TestGraphOf:
    @pytest.fixture
    def models(self, tmp_path: Path) -> Path:
        return tmp_path / MODEL_NAME

    def test_of_both_precisions(self, models: Path, encoder: onnx.ModelProto, int8: onnx.ModelProto) -> None:
        candidates = Candidate("fp32", encoder), Candidate("int8", int8)
        manifest = publish(models, 1, candidates, "int8", ORIGIN)
        for precision, variant in zip(("fp16", "int8"), manifest.variants, strict=True):
            graph, source, sha256 = build_engine.graph_of(models / "1", manifest, precision)
            assert (source, sha256) == (variant.file, variant.sha256)
            assert bool(operators(graph, "QuantizeLinear")) == (precision == "int8")

    def test_a_plan_that_the_gateway_would_refuse_is_not_built(
        self, models: Path, encoder: onnx.ModelProto, int8: onnx.ModelProto
    ) -> None:
        manifest = publish(models, 1, (Candidate("fp32", encoder), Candidate("int8", int8)), "fp32", ORIGIN)
        build_engine.graph_of(models / "1", manifest, "fp16")
        with pytest.raises(EngineError, match=r"does not reproduce its golden vectors: cosine 0\.99"):
            build_engine.graph_of(models / "1", manifest, "int8")

    def test_a_version_without_the_file_is_refused(self, models: Path) -> None:
        manifest = publish(models, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
        with pytest.raises(EngineError, match="version 1 has no int8 file"):
            build_engine.graph_of(models / "1", manifest, "int8")

    def test_what_tensorrt_has_not_is_named(self, models: Path) -> None:
        model = with_nodes(tiny(), helper.make_node("Shrink", ["r"], ["a"], "a", lambd=0.0))
        manifest = publish(models, 1, (Candidate("fp32", model),), "fp32", ORIGIN)
        with pytest.raises(EngineError, match=r"a: operator ai\.onnx\.Shrink"):
            build_engine.graph_of(models / "1", manifest, "fp16")


class TestCommands:
    def run(self, script: str, *arguments: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"{code}; sys.exit({script}.main())"] if code else [sys.executable]
        command += [] if code else [str(TRITON / f"{script}.py")]
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
        )

    def test_building_without_tensorrt_is_one_clear_line(self, tmp_path: Path) -> None:
        done = self.run("build_engine", "--models", tmp_path, "--engines", tmp_path / "engines", "build", "1")
        assert done.returncode == 1
        assert done.stderr.startswith("error: there is no TensorRT here")
        assert "nvcr.io/nvidia/tensorrt" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "engines").exists()

    def test_checking_without_a_gpu_is_one_clear_line(self, engines: Path) -> None:
        done = self.run("build_engine", "--engines", engines, "check")
        assert done.returncode == 1
        assert done.stderr.startswith("error: no NVIDIA GPU is visible here")
        assert done.stderr.count("\n") == 1

    def test_what_is_not_installed_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build_engine, "NEEDED", ("numpy", "nothing_of_that_name"))
        with pytest.raises(EngineError, match="nothing_of_that_name can't be imported"):
            build_engine.build(tmp_path, tmp_path, 1, None)

    def test_it_needs_no_other_package_than_it_says(self) -> None:
        """In NVIDIA's container there are none of these."""
        others = (
            "pydantic",
            "pymilvus",
            "redis",
            "fsspec",
            "lark",
            "tritonclient",
            "prometheus_client",
            "typer",
            "rich",
        )
        code = f"import sys; sys.modules.update(dict.fromkeys({others!r}))"
        code += "\nimport services.export.publish, services.export.engine_graph, services.evaluation.inference"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr

    def test_triton_starts_with_the_onnx_files_when_there_are_no_plans(self, tmp_path: Path) -> None:
        done = self.run(
            "engine_check", tmp_path, "--models=/models", "--", "echo", "--model-repository=/models", "--load-model=a"
        )
        assert (done.returncode, done.stdout) == (0, "--model-repository=/models --load-model=a\n")

    def patched(self, host: Host) -> str:
        return (
            f"import sys; sys.path.append({str(TRITON)!r}); import engine_check; "
            f"engine_check.this_host = lambda: engine_check.Host{dataclasses.astuple(host)!r}"
        )

    def test_triton_starts_with_plans_that_fit(self, engines: Path) -> None:
        arguments = (engines, f"--models={engines.parent / 'models'}", "--", "echo", "--model-repository=/models", "-x")
        done = self.run("engine_check", *arguments, code=self.patched(HOST))
        assert (done.returncode, done.stdout) == (0, f"--model-repository={engines} -x\n")

    def test_triton_does_not_start_with_plans_that_do_not(self, engines: Path) -> None:
        other = dataclasses.replace(HOST, gpu="NVIDIA A10", tensorrt="10.13.3")
        arguments = (engines, "--", "echo", "--model-repository=/models")
        done = self.run("engine_check", *arguments, code=self.patched(other))
        assert (done.returncode, done.stdout) == (1, "")
        assert "built for GPU NVIDIA L4, here it is NVIDIA A10" in done.stderr
        assert "built for TensorRT 11.4.0, here it is 10.13.3" in done.stderr

    def test_a_command_without_a_repository_is_refused(self, engines: Path) -> None:
        done = self.run("engine_check", engines, "--", "echo", "tritonserver", code=self.patched(HOST))
        assert (done.returncode, done.stdout) == (1, "")
        assert "has no --model-repository=" in done.stderr
