"""Protocols, results, sizes, robustness and inference of `services.evaluation`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.images import decode_image
from services.common.products import Region
from services.evaluation.inference import decode_photographs, embed_photographs, embed_protocols, open_encoder
from services.evaluation.protocols import CATALOGUE, PHOTOGRAPHS, protocols
from services.evaluation.results import Confusion, measure
from services.evaluation.robustness import pictures_to_embed, robustness
from services.evaluation.sizes import sizes, to_int8, truncated
from services.photographs.photograph import Photograph
from tests.unit.pictures import encoded, noise


def photo(name: str, split: str = "", *, catalogue: bool = False, category: str = "fruit") -> Photograph:
    """`apple3` shows product apple."""
    return Photograph(Path(name), name.rstrip("0123456789"), category, split, catalogue)


def at(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


class TestProtocols:
    train = (photo("apple1", "train"), photo("pear1", "train"))
    asked = (photo("apple2", "validation"), photo("pear2", "validation"), photo("plum2", "validation"))
    shop = (photo("apple0", "train", catalogue=True), photo("apple9", "train", catalogue=True))

    def test_both(self) -> None:
        among, shop = protocols([*self.train, *self.asked, *self.shop])
        assert (among.name, list(among.gallery), among.left_out) == (PHOTOGRAPHS, list(self.train), 1)
        assert [p.product for p in among.queries] == ["apple", "pear"]
        assert among.own is None
        # one catalogue picture of each product, and only who has one can be found
        assert (shop.name, list(shop.gallery), list(shop.queries)) == (CATALOGUE, [self.shop[0]], [self.asked[0]])
        assert shop.left_out == 2

    def test_without_splits_each_among_the_others(self) -> None:
        photographs = [photo("apple1"), photo("apple2"), photo("pear1"), photo("apple0", catalogue=True)]
        among, shop = protocols(photographs, "all")
        assert among.leave_one_out
        assert list(among.queries) == list(among.gallery) == photographs[:2]
        assert among.left_out == 1
        np.testing.assert_array_equal(among.own, [0, 1])
        assert not shop.leave_one_out

    def test_products_that_training_does_not_have(self) -> None:
        strangers = [photo("fig1", "validation"), photo("fig2", "validation")]
        (among,) = protocols([*self.train, *strangers])
        assert among.leave_one_out
        assert list(among.gallery) == strangers

    def test_training_photographs_are_not_found_as_themselves(self) -> None:
        train = [photo("apple1", "train"), photo("apple2", "train")]
        (among,) = protocols(train, "train")
        assert among.leave_one_out

    def test_what_cannot_be_asked(self) -> None:
        with pytest.raises(InvalidArgument, match="there are train, validation, all") as raised:
            protocols([*self.train, *self.asked], "test")
        assert raised.value.reason == "SPLIT_EMPTY"
        with pytest.raises(InvalidArgument) as raised:
            protocols([photo("apple1"), photo("pear1")], "all")
        assert raised.value.reason == "PROTOCOL_NONE"


class TestResults:
    def result(self):
        train = [photo("apple1", "train"), photo("pear1", "train"), photo("leek1", "train", category="green")]
        asked = [
            photo("apple2", "validation"),
            photo("apple3", "validation"),
            photo("pear2", "validation"),
            photo("leek2", "validation", category="green"),
        ]
        (protocol,) = protocols([*train, *asked])
        # apple2 right; apple3 nearest to the pear; pear2 nearest to the leek, then the pear; leek2 right
        return measure(protocol, at(0, 20, 60, 90), at(0, 30, 80))

    def test_by_hand(self) -> None:
        result = self.result()
        assert result.overall["recall@1"] == 0.5
        assert result.overall["mrr"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
        # apple3 found a pear: wrong fruit, right category
        assert result.overall["coarse recall@1"] == 0.75
        # three pictures in the gallery: recall@5 is not defined
        assert {name for name in result.overall if "recall" in name} == {"recall@1", "coarse recall@1"}
        assert {name: (m["queries"], m["recall@1"]) for name, m in result.per_category.items()} == {
            "fruit": (3, pytest.approx(1 / 3)),
            "green": (1, 1),
        }
        assert {name: m["recall@1"] for name, m in result.per_product.items()} == {"apple": 0.5, "pear": 0, "leek": 1}
        assert result.confusions == [Confusion("apple", "pear", 1, 0.5), Confusion("pear", "leek", 1, 1.0)]

    def test_answers(self) -> None:
        result = self.result()
        answer = result.answers[1]
        assert (answer.query, answer.found, answer.rank, answer.best) == (1, (1, 0, 2), 2, 0)
        np.testing.assert_allclose(answer.similarities, np.cos(np.deg2rad([10, 20, 60])), rtol=1e-5)
        assert answer.regret == pytest.approx(np.cos(np.deg2rad(10)) - np.cos(np.deg2rad(20)), abs=1e-6)
        assert result.answers[0].regret == 0
        # 60 degrees: 20 from the leek, 30 from the pear, a greater regret than that of 10 and 20
        assert [worst.query for worst in result.worst(5)] == [2, 1]
        assert [worst.query for worst in result.worst(1)] == [2]

    def test_leave_one_out(self) -> None:
        photographs = [photo("apple1"), photo("apple2"), photo("pear1"), photo("pear2")]
        (protocol,) = protocols(photographs, "all")
        vectors = at(0, 10, 15, 90)
        result = measure(protocol, vectors, vectors)
        assert result.overall["recall@1"] == 0.5
        assert all(answer.query not in answer.found for answer in result.answers)
        assert all(answer.best != answer.query for answer in result.answers)

    def test_no_category_no_coarse_metrics(self) -> None:
        (protocol,) = protocols([photo("apple1", "train", category=""), photo("apple2", "validation")])
        result = measure(protocol, at(0), at(1))
        assert not any(name.startswith("coarse") for name in result.overall)


class TestSizes:
    def test_each_keeps_what_it_can(self) -> None:
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(20, 300))
        ids = [str(i % 20) for i in range(60)]

        def around(spread: float) -> np.ndarray:
            vectors = np.stack([centres[int(i)] for i in ids]) + spread * rng.normal(size=(60, 300))
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

        gallery, queries = around(0.5), around(0.5)
        found = {size.name: size for size in sizes(queries, ids, gallery, ids)}
        assert [(s.dimension, s.bytes) for s in found.values()] == [
            *((300, 1200), (300, 304), (300, 38)),
            *((256, 1024), (128, 512), (64, 256)),
        ]
        assert all(size.recall == 1 for size in found.values())

    def test_less_is_worse_when_the_rest_matters(self) -> None:
        # the first 64 dimensions are the same for all
        rng = np.random.default_rng(1)
        vectors = np.concatenate([np.ones((30, 64)), rng.normal(size=(30, 64)) * 3], axis=1).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [str(i) for i in range(30)]
        recall = {size.name: size.recall for size in sizes(vectors, ids, vectors, ids)}
        assert recall["float32"] == recall["int8"] == recall["binary, 100 re-ranked"] == 1
        assert recall["float32, first 64"] < 0.2

    def test_re_ranking_is_limited_to_the_candidates(self) -> None:
        # 120 decoys agree with the query in every bit, the right one in none of the small ones
        right = np.array([[1.0, -0.01, -0.01, -0.01]])
        decoys = np.tile([[0.5, 0.5, 0.5, 0.5]], (120, 1))
        far = np.tile([[-0.5, -0.5, -0.5, -0.5]], (121, 1))
        gallery = np.concatenate([decoys, right, far]).astype(np.float32)
        ids = ["decoy"] * 120 + ["right"] + ["far"] * 121
        query = np.array([[1.0, 0.01, 0.01, 0.01]], np.float32)
        recall = {size.name: size.recall for size in sizes(query, ["right"], gallery, ids)}
        assert recall == {"float32": 1, "int8": 1, "binary, 100 re-ranked": 0}

    def test_leave_one_out(self) -> None:
        vectors = at(0, 5, 90, 95)
        assert {size.recall for size in sizes(vectors, list("aabb"), vectors, list("aabb"), np.arange(4))} == {1.0}
        assert {size.recall for size in sizes(vectors, list("abab"), vectors, list("abab"), np.arange(4))} == {0.0}

    def test_parts(self) -> None:
        vectors = np.array([[0.6, 0.0, 0.8]], np.float32)
        np.testing.assert_allclose(truncated(vectors, 2), [[1, 0]])
        assert np.abs(to_int8(vectors) - vectors).max() <= 0.8 / 127 / 2 + 1e-7


class TestRobustness:
    def brightness_of(self, pixels: np.ndarray) -> np.ndarray:
        """An "encoder" that looks at nothing but how bright a picture is."""
        return at(*(pixels.mean(axis=(1, 2, 3)) / 255 * 90))

    def test_what_an_encoder_looks_at_decides(self) -> None:
        dark, light = np.full((40, 40, 3), 90, np.uint8), np.full((40, 40, 3), 170, np.uint8)
        pixels, ids = np.stack([dark, light]), ["dark", "light"]
        done: list[int] = []
        found = robustness(
            self.brightness_of,
            pixels,
            ids,
            self.brightness_of(pixels),
            ids,
            corruptions=("brightness", "contrast", "pixelate"),
            severities=(1, 5),
            progress=done.append,
        )
        assert found.clean == 1
        # raised by half of the range, the dark picture is as bright as the light one was; flat ones have no contrast
        assert found.recall == {"brightness": {1: 1, 5: 0.5}, "contrast": {1: 1, 5: 1}, "pixelate": {1: 1, 5: 1}}
        assert found.drops == {"brightness": 0.25, "contrast": 0, "pixelate": 0}
        assert found.drop == pytest.approx(0.25 / 3)
        assert sum(done) == pictures_to_embed(2, corruptions=3, severities=2) == 14

    def test_a_subset(self) -> None:
        pixels = np.stack([np.full((32, 32, 3), 10 * n, np.uint8) for n in range(9)])
        ids = list("abcdefghi")
        gallery = self.brightness_of(pixels)
        found = robustness(
            self.brightness_of, pixels, ids, gallery, ids, corruptions=("fog",), severities=(3,), queries=4
        )
        assert found.queries == 4
        assert list(found.recall) == ["fog"]
        assert pictures_to_embed(9, 1, 1, queries=4) == 8


def means_encoder(side: int = 16, dimension: int = 3, name: str = "embedding") -> bytes:
    """The mean colour as a unit vector."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], [name], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", dimension])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


class TestInference:
    def test_an_encoder_says_its_shape(self) -> None:
        encoder = open_encoder(means_encoder(24))
        assert (encoder.side, encoder.dimension) == (24, 3)

    def test_what_is_no_encoder(self, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_text("no model")
        for model in (tmp_path / "text.onnx", means_encoder(name="output")):
            with pytest.raises(FailedPrecondition) as raised:
                open_encoder(model)
            assert raised.value.reason == "MODEL_CONTRACT_BROKEN"

    def test_photographs_in_their_order_and_region(self, tmp_path: Path) -> None:
        encoder = open_encoder(means_encoder())
        photographs = []
        for number in range(11):
            path = tmp_path / f"{number}.png"
            path.write_bytes(encoded(noise(40, 40, number), "PNG"))
            region = Region(0.5, 0, 1, 0.5) if number == 3 else None
            photographs.append(Photograph(path, "p", region=region))
        done: list[int] = []
        vectors = embed_photographs(photographs, 16, encoder, batch=4, progress=done.append)
        pixels = np.stack([decode_image(p.path.read_bytes(), 16, p.region) for p in photographs])
        np.testing.assert_allclose(vectors, encoder(pixels), rtol=1e-6)
        np.testing.assert_array_equal(decode_photographs(photographs, 16), pixels)
        assert done == [4, 4, 3]

    def test_a_picture_in_two_protocols_is_embedded_once(self, tmp_path: Path) -> None:
        photographs = []
        for number, (split, catalogue) in enumerate((("train", False), ("validation", False), ("train", True))):
            path = tmp_path / f"{number}.png"
            path.write_bytes(encoded(noise(40, 40, number), "PNG"))
            photographs.append(Photograph(path, "p", "", split, catalogue))
        found = protocols(photographs)
        done: list[int] = []
        (queries, gallery), (again, shop) = embed_protocols(
            found, 16, open_encoder(means_encoder()), progress=done.append
        )
        assert sum(done) == 3
        np.testing.assert_array_equal(queries, again)
        assert not np.allclose(gallery, shop)


def test_tiny_models_are_models() -> None:
    onnx.checker.check_model(onnx.load_from_string(means_encoder()))
