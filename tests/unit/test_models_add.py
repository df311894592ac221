"""`lookalike models add` and `export`: an encoder as one file, into the model repository and out of it."""

from __future__ import annotations

import base64
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import helper
from typer.testing import CliRunner

from services.cli.models import app
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_FILE, MODEL_NAME, Manifest, golden_pixels, sha256_file
from services.evaluation.inference import embed, open_session
from services.export import adding
from services.export.publish import Candidate, Origin, publish, verify
from services.export.quantize import quantize
from tests.unit.test_export import tiny

ORIGIN = Origin(
    preprocessing=PREPROCESSING, backbone="tiny", training_run="made-1", evaluated_on="nothing", recipe="made", parent=1
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With version 1."""
    publish(tmp_path / "models" / MODEL_NAME, 1, (Candidate("fp32", tiny()),), "fp32", ORIGIN)
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Another encoder, INT8, as it comes out of another repository, where it was version 7."""
    model = tiny(seed=1, features="r")
    int8 = quantize(model, np.stack([golden_pixels(seed, 16) for seed in range(8)]))
    candidates = Candidate("fp32", model, {"recall@1": 0.7}), Candidate("int8", int8, {"recall@1": 0.69})

    def write_extras(folder: Path) -> None:
        (folder / "weights.safetensors").write_bytes(b"weights")

    publish(tmp_path / "there" / MODEL_NAME, 7, candidates, "int8", ORIGIN, write_extras=write_extras)
    out = tmp_path / "encoder.onnx"
    done = call("export", 7, out, "--repository", tmp_path / "there")
    assert done.exit_code == 0, done.output
    return out


def add(repository: Path, file: Path, *options: object) -> Result:
    return call("add", file, "--repository", repository, *options)


def versions(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / MODEL_NAME).iterdir() if not path.name.startswith("."))


def change(file: Path, **changes: Any) -> None:
    """Of its manifest."""
    path = file.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(repository: Path, file: Path, reason: str, *options: object) -> str:
    """Its output, in one line, when it is refused with this reason and nothing is left behind."""
    before = versions(repository)
    done = add(repository, file, *options)
    output = " ".join(done.output.split())
    assert done.exit_code == 1, output
    assert output.startswith("error: ")
    assert reason in output
    assert versions(repository) == before
    assert not list((repository / MODEL_NAME).glob(".staging-*"))
    return output


class TestAdd:
    def test_it_becomes_the_next_version_byte_for_byte(self, repository: Path, file: Path, tmp_path: Path) -> None:
        done = add(repository, file)
        assert done.exit_code == 0, done.output
        assert "is version 2 now" in " ".join(done.output.split())
        folder = repository / MODEL_NAME / "2"
        assert (folder / MODEL_FILE).read_bytes() == file.read_bytes()
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "model_int8.onnx"]
        there, here = verify(tmp_path / "there" / MODEL_NAME / "7"), verify(folder)
        # what was known of it there is known here
        assert here == dataclasses.replace(there, version=2, variants=(there.served_variant,), extras=())
        assert here.metrics == here.served_variant.metrics == {"recall@1": 0.69}
        assert (here.training_run, here.recipe, here.parent) == ("made-1", "made", 1)

    def test_what_it_is_compatible_with_has_the_number_that_it_has_here(self, repository: Path, tmp_path: Path) -> None:
        """There it was version 4, here it is version 1, and where it is not there nothing is claimed."""
        file, older = tmp_path / "newer.onnx", Manifest.read(repository / MODEL_NAME / "1")
        origin = dataclasses.replace(ORIGIN, compatible_with=4, compatible_sha256=older.served_variant.sha256)
        publish(tmp_path / "there" / MODEL_NAME, 5, (Candidate("fp32", tiny(seed=3)),), "fp32", origin)
        assert call("export", 5, file, "--repository", tmp_path / "there").exit_code == 0
        assert Manifest.read_file(file.with_suffix(".json")).compatible_with == 4
        for place, wanted in ((repository, (1, older.served_variant.sha256)), (tmp_path / "elsewhere", (0, ""))):
            added = json.loads(add(place, file, "--json").output)
            assert (added["compatible_with"], added["compatible_sha256"]) == wanted

    def test_it_is_listed(self, repository: Path, file: Path) -> None:
        add(repository, file)
        rows = json.loads(call("list", "--json", "--repository", repository).output)
        assert [(row["version"], row["served"], row["intact"]) for row in rows] == [
            (1, "fp32", True),
            (2, "int8", True),
        ]
        assert "69.0%" in call("list", "--repository", repository).output

    def test_the_same_file_again_does_nothing(self, repository: Path, file: Path) -> None:
        add(repository, file)
        before = sha256_file(repository / MODEL_NAME / "2" / "manifest.json")
        for options in ((), ("--version", 9)):
            done = add(repository, file, *options)
            assert done.exit_code == 0, done.output
            assert "is version 2 already" in " ".join(done.output.split())
        assert versions(repository) == ["1", "2"]
        assert sha256_file(repository / MODEL_NAME / "2" / "manifest.json") == before

    def test_json(self, repository: Path, file: Path) -> None:
        first, second = (json.loads(add(repository, file, "--json").output) for _ in range(2))
        assert (first["version"], first["added"], first["metrics"]) == (2, True, {"recall@1": 0.69})
        assert second == first | {"added": False}

    def test_a_number_of_ones_choice(self, repository: Path, file: Path) -> None:
        assert add(repository, file, "--version", 10).exit_code == 0
        other = file.with_name("other.onnx")
        onnx.save(tiny(seed=2), other)
        assert add(repository, other).exit_code == 0
        assert versions(repository) == ["1", "10", "11"]
        onnx.save(tiny(seed=3), other)
        refused(repository, other, "MODEL_VERSION_EXISTS", "--version", 10)
        assert add(repository, other, "--version", 0).exit_code == 2

    def test_into_an_empty_repository(self, tmp_path: Path, file: Path) -> None:
        assert add(tmp_path / "empty", file).exit_code == 0
        assert verify(tmp_path / "empty" / MODEL_NAME / "1").served == "int8"
        # where version 1 is one that was added, `init` leaves it as it is
        done = call("init", "--repository", tmp_path / "empty")
        assert done.exit_code == 0, done.output
        assert "is there and intact" in " ".join(done.output.split())

    def test_many_at_once_add_it_once(self, repository: Path, file: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            calls = [
                pool.submit(adding.add, repository / MODEL_NAME, file, adding.manifest_beside(file)) for _ in range(4)
            ]
        assert sorted(each.result().added for each in calls) == [False, False, False, True]
        assert {each.result().manifest.version for each in calls} == {2}
        assert versions(repository) == ["1", "2"]

    def test_a_damaged_version_elsewhere_is_no_hindrance(self, repository: Path, file: Path) -> None:
        (repository / MODEL_NAME / "1" / "manifest.json").write_text("{")
        assert add(repository, file).exit_code == 0
        assert versions(repository) == ["1", "2"]
        # but one with this very file is not said to be there when it is not intact
        (repository / MODEL_NAME / "2" / "model_int8.onnx").unlink()
        refused(repository, file, "MODEL_DAMAGED")


class TestRefused:
    def test_a_damaged_file(self, repository: Path, file: Path) -> None:
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        refused(repository, file, "MODEL_")
        for damaged in (whole[:middle], b"not a network at all", b""):
            file.write_bytes(damaged)
            refused(repository, file, "MODEL_")

    def test_another_file_than_the_manifest_speaks_of(self, repository: Path, file: Path) -> None:
        onnx.save(tiny(seed=5), file)
        assert "has the sha256" in refused(repository, file, "MODEL_DAMAGED")

    def test_another_preprocessing(self, repository: Path, file: Path) -> None:
        change(file, preprocessing="crop-9")
        assert "'crop-9'" in refused(repository, file, "PREPROCESSING_MISMATCH")

    def test_golden_vectors_that_it_does_not_reproduce(self, repository: Path, file: Path) -> None:
        golden = verify(repository / MODEL_NAME / "1").golden
        change(file, golden=[dataclasses.asdict(each) for each in golden])
        assert "cosine" in refused(repository, file, "GOLDEN_MISMATCH")

    @pytest.mark.parametrize(
        "changes",
        [
            {"side": 32},
            {"dimension": 9},
            {"golden": []},
            {"golden": [{"seed": 1, "embedding": "?"}]},
            {"golden": [{"seed": 1, "embedding": base64.b64encode(bytes(12)).decode()}]},
            {"served": "fp32"},
            {"variants": []},
            {"created": 5},
            {"unheard_of": ""},
        ],
    )
    def test_a_manifest_that_is_not_right(self, repository: Path, file: Path, changes: dict[str, Any]) -> None:
        change(file, **changes)
        assert str(file.with_suffix(".json")) in refused(repository, file, "MODEL_MANIFEST_INVALID").replace(" ", "")

    def test_two_variants(self, repository: Path, file: Path) -> None:
        (variant,) = json.loads(file.with_suffix(".json").read_text())["variants"]
        change(file, variants=[variant, variant | {"precision": "fp32"}])
        refused(repository, file, "MODEL_MANIFEST_INVALID")

    @pytest.mark.parametrize("content", ["", "[]", "null"])
    def test_what_is_no_manifest(self, repository: Path, file: Path, content: str) -> None:
        file.with_suffix(".json").write_text(content)
        refused(repository, file, "MODEL_MANIFEST_INVALID")

    def test_what_is_not_there(self, repository: Path, file: Path, tmp_path: Path) -> None:
        refused(repository, tmp_path / "nothing.onnx", "nothing.onnx")
        refused(repository, file, "MODEL_MANIFEST_INVALID", "--manifest", tmp_path / "nothing.json")

    def test_what_breaks_the_contract(self, repository: Path, tmp_path: Path) -> None:
        model = tiny()
        model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
        onnx.save(model, tmp_path / "a.onnx")
        refused(repository, tmp_path / "a.onnx", "MODEL_CONTRACT_BROKEN")

    def test_answers_without_unit_length(self, repository: Path, tmp_path: Path) -> None:
        model = tiny()
        model.graph.node[-1].CopyFrom(helper.make_node("Identity", [model.graph.node[-1].input[0]], ["embedding"]))
        onnx.save(model, tmp_path / "a.onnx")
        assert "unit length" in refused(repository, tmp_path / "a.onnx", "MODEL_CONTRACT_BROKEN")

    def test_what_can_not_be_run(self, repository: Path, tmp_path: Path) -> None:
        model = tiny()
        for node in model.graph.node:
            if node.op_type == "Relu":  # valid ONNX as far as anyone can say
                node.op_type, node.domain = "Unknown", "nobody"
        model.opset_import.append(helper.make_opsetid("nobody", 1))
        onnx.save(model, tmp_path / "a.onnx")
        refused(repository, tmp_path / "a.onnx", "MODEL_CONTRACT_BROKEN")

    def test_weights_in_other_files(self, repository: Path, tmp_path: Path) -> None:
        onnx.save(tiny(), tmp_path / "a.onnx", save_as_external_data=True, location="a.weights", size_threshold=0)
        assert (tmp_path / "a.weights").exists()
        assert "weights in other files" in refused(repository, tmp_path / "a.onnx", "MODEL_CONTRACT_BROKEN")


class TestWithoutManifest:
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_what_can_be_seen_is_recorded(self, repository: Path, tmp_path: Path, precision: str) -> None:
        model = tiny(seed=3)
        if precision == "int8":
            model = quantize(model, np.stack([golden_pixels(seed, 16) for seed in range(8)]))
        path = tmp_path / "found.onnx"
        onnx.save(model, path)
        done = add(repository, path)
        assert done.exit_code == 0, done.output
        assert "no manifest" in " ".join(done.output.split())
        manifest = verify(repository / MODEL_NAME / "2")
        assert (manifest.served, manifest.side, manifest.dimension, manifest.metrics) == (precision, 16, 8, {})
        assert manifest.preprocessing == PREPROCESSING
        pixels = np.stack([golden_pixels(golden.seed, 16) for golden in manifest.golden])
        assert len(pixels) == 4
        np.testing.assert_allclose(embed(open_session(path), pixels), manifest.golden_embeddings(), atol=1e-6)
        assert call("list", "--repository", repository).exit_code == 0


class TestExport:
    def test_what_it_writes(self, file: Path, tmp_path: Path) -> None:
        served = tmp_path / "there" / MODEL_NAME / "7" / MODEL_FILE
        assert file.read_bytes() == served.read_bytes()
        manifest = Manifest.read_file(file.with_suffix(".json"))
        (variant,) = manifest.variants
        assert (manifest.version, variant.precision, variant.file) == (7, "int8", "encoder.onnx")
        assert (variant.sha256, manifest.extras) == (sha256_file(file), ())
        assert not list(tmp_path.glob(".*"))

    def test_it_replaces_nothing_unless_told(self, repository: Path, file: Path) -> None:
        before = sha256_file(file)
        assert "exists" in call("export", 1, file, "--repository", repository).output
        file.rename(file.with_name("moved.onnx"))
        assert call("export", 1, file, "--repository", repository).exit_code == 1  # the manifest is there
        assert not file.exists()
        done = call("export", 1, file, "--repository", repository, "--force", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["served"] == "fp32"
        assert sha256_file(file) != before
        assert Manifest.read_file(file.with_suffix(".json")).served_variant.sha256 == sha256_file(file)

    def test_what_can_not_be_exported(self, repository: Path, tmp_path: Path) -> None:
        for arguments, problem in (
            ((1, tmp_path / "encoder.bin"), "does not end in .onnx"),
            ((2, tmp_path / "a.onnx"), "MODEL_MANIFEST_INVALID"),
            ((1, tmp_path / "nowhere" / "a.onnx"), "nowhere"),
        ):
            done = call("export", *arguments, "--repository", repository)
            assert done.exit_code == 1
            assert problem in " ".join(done.output.split())
        (repository / MODEL_NAME / "1" / "model_fp32.onnx").unlink()
        done = call("export", 1, tmp_path / "a.onnx", "--repository", repository)
        assert (done.exit_code, "MODEL_DAMAGED" in done.output) == (1, True)
        assert not list(tmp_path.glob("*.onnx"))
