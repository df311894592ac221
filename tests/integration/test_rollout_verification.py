"""Versions with faults on the real Triton: each is refused with its reason, while the serving version answers on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from services.backends.encoder import Encoder, EncoderSettings, Priority
from services.backends.golden import check_golden
from services.backends.kept_loaded import KeptLoaded
from services.common.errors import FailedPrecondition, Overloaded, Unavailable
from services.common.manifest import MANIFEST_FILE, MODEL_FILE, golden_pixels
from services.local.engines import Engines
from services.rollout.verification import latencies_ms, load_version, verify_files
from tests.integration.encoders import (
    DIMENSION,
    SIDE,
    make_repository,
    publish_version,
    replace_served,
    tiles,
    triton_of,
)

pytestmark = pytest.mark.timeout(120)

PIXELS = np.stack([golden_pixels(seed, SIDE) for seed in range(4)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With version 1, in service."""
    models = make_repository(tmp_path_factory.mktemp("faults"))
    publish_version(models, 1, tiles(slow_layers=1))
    return models


@pytest.fixture(scope="module")
async def encoder(engines: Engines, models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Encoder]:
    supervisor, url = triton_of(engines, models, tmp_path_factory.mktemp("triton"))
    async with supervisor, Encoder(EncoderSettings(url=url, timeout_s=20)) as encoder:
        yield encoder


@pytest.fixture
def version(models: Path) -> Iterator[int]:
    """A number for a version that is gone after the test."""
    yield 7
    shutil.rmtree(models / "7", ignore_errors=True)


@contextlib.asynccontextmanager
async def answering(encoder: Encoder, version: int = 1, clients: int = 2) -> AsyncIterator[None]:
    """The version answers throughout, and always the same; a failed call fails the test."""
    expected = await encoder.embed(PIXELS, version)
    stop, calls = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal calls
        while not stop.is_set():
            np.testing.assert_allclose(await encoder.embed(PIXELS[:2], version), expected[:2], atol=1e-5)
            calls += 1

    asking = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield
        before = calls
        async with asyncio.timeout(20):
            while calls < before + 4 and not any(task.done() for task in asking):
                await asyncio.sleep(0.01)
    finally:
        stop.set()
        await asyncio.gather(*asking)


def reason_of(error: pytest.ExceptionInfo[FailedPrecondition]) -> str:
    return error.value.reason


class TestFiles:
    """What is refused before Triton hears of it."""

    async def test_a_good_version_passes(self, models: Path, version: int) -> None:
        made = publish_version(models, version, tiles())
        assert await verify_files(models, version) == made

    async def test_a_missing_version(self, models: Path) -> None:
        with pytest.raises(FailedPrecondition) as error:
            await verify_files(models, 99)
        assert reason_of(error) == "MODEL_MISSING"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            pytest.param(lambda data: data[: len(data) // 2], "MODEL_DAMAGED", id="truncated"),
            pytest.param(lambda data: data[:-8] + bytes(8), "MODEL_DAMAGED", id="other bytes"),
        ],
    )
    async def test_the_checksum(
        self, models: Path, version: int, change: Callable[[bytes], bytes], reason: str
    ) -> None:
        publish_version(models, version, tiles())
        file = models / str(version) / MODEL_FILE
        changed = change(file.read_bytes())
        file.unlink()  # it is the same file as that of its precision
        file.write_bytes(changed)
        with pytest.raises(FailedPrecondition) as error:
            await verify_files(models, version)
        assert reason_of(error) == reason

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"preprocessing": "pad-9"}, "PREPROCESSING_MISMATCH"),
            ({"version": 8}, "MODEL_MANIFEST_INVALID"),
            ({"golden": []}, "MODEL_MANIFEST_INVALID"),
            ({"golden": [{"seed": 1, "embedding": "AAAA"}]}, "MODEL_MANIFEST_INVALID"),
            ({"golden": [{"seed": 1, "embedding": "AAAAAA=="}]}, "MODEL_MANIFEST_INVALID"),
            ({"served": "int4"}, "MODEL_MANIFEST_INVALID"),
            ({"side": 32}, "DIMENSION_MISMATCH"),
            ({"dimension": 12}, "DIMENSION_MISMATCH"),
        ],
    )
    async def test_the_manifest(self, models: Path, version: int, changes: dict[str, object], reason: str) -> None:
        publish_version(models, version, tiles())
        path = models / str(version) / MANIFEST_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(FailedPrecondition) as error:
            await verify_files(models, version)
        assert reason_of(error) == reason

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            pytest.param(lambda good: good[: len(good) // 2], "MODEL_DAMAGED", id="no ONNX"),
            pytest.param(lambda good: tiles(scale=2.0).SerializeToString(), "MODEL_CONTRACT_BROKEN", id="not unit"),
            pytest.param(lambda good: tiles(scale=float("nan")).SerializeToString(), "MODEL_CONTRACT_BROKEN", id="NaN"),
            pytest.param(
                lambda good: tiles(np.eye(DIMENSION, 64)).SerializeToString(), "DIMENSION_MISMATCH", id="other D"
            ),
            pytest.param(lambda good: renamed(tiles()).SerializeToString(), "MODEL_CONTRACT_BROKEN", id="other name"),
            pytest.param(
                lambda good: tiles(random_projection()).SerializeToString(), "GOLDEN_MISMATCH", id="another encoder"
            ),
        ],
    )
    async def test_files_that_agree_with_their_hashes(
        self, models: Path, version: int, make: Callable[[bytes], bytes], reason: str
    ) -> None:
        publish_version(models, version, tiles())
        replace_served(models, version, make)
        with pytest.raises(FailedPrecondition) as error:
            await verify_files(models, version)
        assert reason_of(error) == reason

    async def test_a_vector_that_depends_on_its_batch(self, models: Path, version: int) -> None:
        """It looks well as long as the same pictures come together, and so it reproduces its golden vectors."""
        publish_version(models, version, among_others(tiles()))
        with pytest.raises(FailedPrecondition, match="alone") as error:
            await verify_files(models, version)
        assert reason_of(error) == "MODEL_CONTRACT_BROKEN"


class TestLoading:
    async def test_a_good_version_is_served_beside_the_other_and_let_go_of(
        self, encoder: Encoder, models: Path, version: int
    ) -> None:
        async with answering(encoder):
            manifest = publish_version(models, version, tiles())
            assert await load_version(encoder, models, manifest) > 0.9999
            assert await encoder.loaded_versions() == {1, version}
            async with answering(encoder, version):
                await encoder.load(models, {version})
            await encoder.keep_only(models, {1})
            assert await encoder.loaded_versions() == {1}
            with pytest.raises(Unavailable):
                await encoder.embed(PIXELS, version)
            # and back
            await load_version(encoder, models, manifest)
            await encoder.keep_only(models, {1})

    async def test_letting_go_answers_the_calls_it_has_taken(
        self, encoder: Encoder, models: Path, version: int
    ) -> None:
        manifest = publish_version(models, version, tiles(slow_layers=6))
        await load_version(encoder, models, manifest)
        async with answering(encoder):
            calls = [asyncio.create_task(encoder.embed(PIXELS, version)) for _ in range(12)]
            await asyncio.sleep(0.1)
            await encoder.keep_only(models, {1})
            answers = await asyncio.gather(*calls)
        assert all(answer.shape == (4, DIMENSION) for answer in answers)

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            pytest.param(lambda good: good[: len(good) // 2], "MODEL_LOAD_FAILED", id="truncated"),
            pytest.param(lambda good: b"", "MODEL_LOAD_FAILED", id="empty"),
            pytest.param(lambda good: tiles(scale=2.0).SerializeToString(), "GOLDEN_MISMATCH", id="not unit"),
            pytest.param(lambda good: tiles(scale=float("nan")).SerializeToString(), "GOLDEN_MISMATCH", id="NaN"),
            pytest.param(
                lambda good: tiles(np.eye(DIMENSION, 64)).SerializeToString(), "DIMENSION_MISMATCH", id="other D"
            ),
            pytest.param(
                lambda good: tiles(random_projection()).SerializeToString(), "GOLDEN_MISMATCH", id="another encoder"
            ),
            pytest.param(lambda good: renamed(tiles()).SerializeToString(), "DIMENSION_MISMATCH", id="other name"),
        ],
    )
    async def test_a_version_with_a_fault_never_disturbs_the_serving_one(
        self, encoder: Encoder, models: Path, version: int, make: Callable[[bytes], bytes], reason: str
    ) -> None:
        """Though nobody looked at its files before: Triton meets what is in the folder."""
        made = publish_version(models, version, tiles())
        replace_served(models, version, make)
        async with answering(encoder):
            with pytest.raises(FailedPrecondition) as error:
                await load_version(encoder, models, made)
            assert reason_of(error) == reason
        # it was let go of again
        assert await encoder.loaded_versions() == {1}

    async def test_tritons_words_are_handed_on(self, encoder: Encoder, models: Path, version: int) -> None:
        made = publish_version(models, version, tiles())
        replace_served(models, version, lambda good: good[: len(good) // 2])
        with pytest.raises(FailedPrecondition, match=r"version 7 .*Protobuf parsing failed") as error:
            await load_version(encoder, models, made)
        assert error.value.reason == "MODEL_LOAD_FAILED"
        assert "At:" not in error.value.message

    async def test_a_damaged_folder_that_nobody_names_does_not_matter(
        self, encoder: Encoder, models: Path, version: int
    ) -> None:
        (models / "6").mkdir()
        (models / "6" / MODEL_FILE).write_bytes(b"half")
        try:
            manifest = publish_version(models, version, tiles())
            async with answering(encoder):
                await load_version(encoder, models, manifest)
                await encoder.keep_only(models, {1})
        finally:
            shutil.rmtree(models / "6")

    async def test_a_serving_file_that_is_damaged_later_stops_loads_and_not_the_answers(
        self, encoder: Encoder, models: Path, version: int
    ) -> None:
        file = models / "1" / MODEL_FILE
        good = file.read_bytes()
        file.unlink()
        file.write_bytes(b"half")
        manifest = publish_version(models, version, tiles())
        try:
            async with answering(encoder):
                with pytest.raises(FailedPrecondition, match="version 1 is at") as error:
                    await load_version(encoder, models, manifest)
            assert reason_of(error) == "MODEL_LOAD_FAILED"
            assert await encoder.loaded_versions() == {1}
        finally:
            file.write_bytes(good)
        async with answering(encoder):
            await load_version(encoder, models, manifest)
            await encoder.keep_only(models, {1})

    async def test_a_served_version_without_a_folder_is_not_let_go_of_by_mistake(
        self, encoder: Encoder, models: Path, version: int
    ) -> None:
        manifest = publish_version(models, version, tiles())
        (models / "1").rename(models / "aside")
        try:
            async with answering(encoder):
                with pytest.raises(FailedPrecondition) as error:
                    await load_version(encoder, models, manifest)
            assert reason_of(error) == "MODEL_MISSING"
        finally:
            (models / "aside").rename(models / "1")
        assert await encoder.loaded_versions() == {1}

    async def test_a_restart_that_meets_a_damaged_version(
        self, engines: Engines, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        models = make_repository(tmp_path)
        manifest = publish_version(models, 1, tiles())
        publish_version(models, 2, tiles())
        replace_served(models, 2, lambda good: good[: len(good) // 2])
        supervisor, url = triton_of(engines, models, tmp_path_factory.mktemp("triton"))
        async with supervisor, Encoder(EncoderSettings(url=url, timeout_s=20)) as encoder:
            # Triton itself serves none then; should it learn to, this remedy can go
            assert await encoder.loaded_versions() == set()
            async with KeptLoaded(encoder, models, lambda: {1}, every_s=0.05):
                async with asyncio.timeout(20):
                    while await encoder.loaded_versions() != {1}:
                        await asyncio.sleep(0.02)
                assert await check_golden(encoder, manifest) > 0.9999
                await supervisor.kill()
                await supervisor.ready(30)
                async with asyncio.timeout(20):
                    while not await encoder.is_ready(1):
                        await asyncio.sleep(0.02)
                assert await check_golden(encoder, manifest) > 0.9999


class TestPriorities:
    @pytest.fixture
    async def slow(self, encoder: Encoder, models: Path, version: int) -> AsyncIterator[int]:
        """A version that takes its time, so that its queue fills however busy the machine is."""
        await load_version(encoder, models, publish_version(models, version, tiles(slow_layers=8)))
        yield version
        await encoder.keep_only(models, {1})

    async def test_queries_overtake_a_full_queue_of_a_backfill(self, encoder: Encoder, slow: int) -> None:
        order: list[str] = []

        async def ask(name: str, priority: Priority) -> None:
            await encoder.embed(PIXELS[:1], slow, priority=priority)
            order.append(name)

        low = [asyncio.create_task(ask("backfill", Priority.BACKFILL)) for _ in range(240)]
        while not order:
            await asyncio.sleep(0.001)
        await asyncio.gather(*(ask("query", Priority.QUERY) for _ in range(8)))
        answered = list(order)
        await asyncio.gather(*low)
        # all of them were there first; what was under way already was not given up
        assert answered.count("backfill") < 120
        assert (order.count("query"), order.count("backfill")) == (8, 240)

    async def test_each_priority_has_a_queue_of_its_own(self, encoder: Encoder, slow: int) -> None:
        asked = [encoder.embed(PIXELS[:1], slow, priority=Priority.BACKFILL) for _ in range(500)]
        backfill = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0.1)
        queries = await asyncio.gather(*(encoder.embed(PIXELS[:1], slow) for _ in range(50)))
        answers = await asyncio.gather(*backfill, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert len(queries) == 50
        assert refused
        assert all(isinstance(error, Overloaded) and error.reason == "ENCODER_QUEUE_FULL" for error in refused)

    async def test_a_backfill_is_patient(self, encoder: Encoder, slow: int) -> None:
        """It may wait longer than a query may, unless its caller says otherwise."""
        pixels = np.repeat(PIXELS, 8, axis=0)
        settings = EncoderSettings(url=encoder._settings.url, timeout_s=0.002, patience_s=30)
        async with Encoder(settings) as hasty:
            with pytest.raises(Unavailable):
                await hasty.embed(pixels, slow)
            await hasty.embed(pixels, slow, priority=Priority.BACKFILL)
            with pytest.raises(Unavailable):
                await hasty.embed(pixels, slow, 0.002, priority=Priority.BACKFILL)


async def test_latencies_tell_a_slow_version_from_a_quick_one(encoder: Encoder, models: Path, version: int) -> None:
    manifest = publish_version(models, version, tiles(slow_layers=12))
    await load_version(encoder, models, manifest)
    quick, slow = await latencies_ms(encoder, [(1, SIDE), (version, SIDE)], rounds=10)
    await encoder.keep_only(models, {1})
    assert 0 < 2 * quick < slow


def random_projection(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(DIMENSION, DIMENSION))


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With another name for its output."""
    model.graph.node[-1].output[0] = model.graph.output[0].name = "vector"
    return model


def among_others(model: onnx.ModelProto) -> onnx.ModelProto:
    """A picture's vector depends on the others of its batch: right as long as the same ones come together."""
    head = next(node for node in model.graph.node if node.op_type == "LpNormalization")
    before = head.input[0]
    nodes = [
        helper.make_node("ReduceMean", [before], ["batch_mean"], "batch_mean", axes=[0], keepdims=1),
        helper.make_node("Mul", ["batch_mean", "most"], ["batch_most"], "batch_most"),
        helper.make_node("Sub", [before, "batch_most"], ["apart"], "apart"),
    ]
    head.input[0] = "apart"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.9), "most"))
    place = list(model.graph.node).index(head)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + offset, node)
    return model
