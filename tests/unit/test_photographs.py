"""Sources of labelled photographs, their checks and their splits."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images import decode_image
from services.common.products import Region
from services.photographs.checks import check_files, check_overlap
from services.photographs.dataset import read_data_set, read_unlabelled
from services.photographs.fingerprint import MAX_BITS, SIDE, Fingerprint, fingerprint, same_pictures
from services.photographs.folder import read_folder
from services.photographs.grocery import TRAIN, VALIDATION, read_grocery, read_photographs
from services.photographs.manifest import read_manifest
from services.photographs.photograph import Photograph, Place, Splits
from services.photographs.splits import limit, split_by_file, split_images, split_products
from tests.unit.pictures import encoded, noise


def put(path: Path, seed: int, side: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise(side, side, seed), "JPEG", quality=92))
    return path


def reason_of(raised: pytest.ExceptionInfo[InvalidArgument]) -> str:
    return raised.value.reason


class TestFolder:
    def test_product_and_category(self, tmp_path: Path) -> None:
        put(tmp_path / "Trail Runner" / "b.JPG", 1)
        put(tmp_path / "shoes" / "low" / "Sandal" / "a.jpg", 2)
        (tmp_path / "shoes" / "notes.txt").write_text("no picture")
        put(tmp_path / ".hidden" / "c.jpg", 3)
        put(tmp_path / "shoes" / "low" / "Sandal" / ".d.jpg", 4)
        assert read_folder(tmp_path) == [
            Photograph(tmp_path / "Trail Runner" / "b.JPG", "trail-runner"),
            Photograph(tmp_path / "shoes" / "low" / "Sandal" / "a.jpg", "sandal", "shoes/low"),
        ]

    def test_splits_and_catalogue(self, tmp_path: Path) -> None:
        for number, split in enumerate(("train", "val", "test", "catalogue")):
            put(tmp_path / split / "fruit" / "apple" / "1.jpg", number)
        found = read_folder(tmp_path)
        assert {(p.product, p.category) for p in found} == {("apple", "fruit")}
        assert [(p.split, p.catalogue) for p in found] == [
            *(("train", True), ("test", False)),
            *(("train", False), ("validation", False)),
        ]

    def test_products_of_one_name_stay_apart_and_keep_their_ids(self, tmp_path: Path) -> None:
        put(tmp_path / "men" / "sandal" / "1.jpg", 1)
        put(tmp_path / "women" / "sandal" / "1.jpg", 2)
        ids = {p.category: p.product for p in read_folder(tmp_path)}
        assert ids["men"] != ids["women"]
        assert all(product.startswith("sandal-") for product in ids.values())
        put(tmp_path / "children" / "sandal" / "1.jpg", 3)
        assert {p.category: p.product for p in read_folder(tmp_path)}.items() > ids.items()

    def test_what_is_wrong(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="is not a folder") as raised:
            read_folder(tmp_path / "nothing")
        assert reason_of(raised) == "DATA_INVALID"
        with pytest.raises(InvalidArgument, match="no picture") as raised:
            read_folder(tmp_path)
        assert reason_of(raised) == "DATA_EMPTY"
        put(tmp_path / "train" / "apple" / "1.jpg", 1)
        loose = put(tmp_path / "loose.jpg", 2)
        with pytest.raises(InvalidArgument, match=r"loose\.jpg is in no folder of a product"):
            read_folder(tmp_path)
        loose.rename(tmp_path / "train" / "loose.jpg")
        with pytest.raises(InvalidArgument, match=r"loose\.jpg is in no folder of a product"):
            read_folder(tmp_path)
        (tmp_path / "train" / "loose.jpg").unlink()
        put(tmp_path / "pear" / "1.jpg", 3)
        with pytest.raises(InvalidArgument, match="'pear' must be one of train, validation, test, catalogue"):
            read_folder(tmp_path)


class TestManifest:
    def test_csv_and_jsonl_say_the_same(self, tmp_path: Path) -> None:
        rows = [
            {"path": "a/1.jpg", "product": "Ä pple", "split": "train", "category": "fruit", "catalogue": "true"},
            {"path": "a/2.jpg", "product": "Ä pple", "split": "val", "category": "fruit", "catalogue": ""},
            {"path": "/b.jpg", "product": "7", "split": "", "category": "", "catalogue": "no"},
        ]
        text = ";".join(rows[0]) + "\n" + "\n".join(";".join(row.values()) for row in rows)
        (tmp_path / "m.csv").write_text(text, encoding="utf-8-sig")
        plain = [row | {"catalogue": row["catalogue"] == "true"} for row in rows]
        plain[2] = {"path": "/b.jpg", "product": 7, "split": None}
        (tmp_path / "m.jsonl").write_text("\n\n".join(json.dumps(row) for row in plain))
        expected = [
            Photograph(tmp_path / "a/1.jpg", "Ä pple", "fruit", "train", True),
            Photograph(tmp_path / "a/2.jpg", "Ä pple", "fruit", "validation"),
            Photograph(Path("/b.jpg"), "7"),
        ]
        assert read_manifest(tmp_path / "m.csv") == read_manifest(tmp_path / "m.jsonl") == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("path,product\na.jpg,\n", "line 2: product is missing"),
            ("path,product\na.jpg,x\n\n,x\n", "line 4: path is missing"),
            ("path,product,split\na.jpg,x,dev\n", "line 2: split 'dev' is none of train, validation, test"),
            ("path,product,catalogue\na.jpg,x,maybe\n", "line 2: catalogue 'maybe' is neither"),
            ("path,product\na.jpg,x\nb.jpg,x\na.jpg,y\n", "line 4: names the same file as line 2"),
            (
                "path,product,category\na.jpg,x,c\nb.jpg,x,d\n",
                "line 3: product 'x' has category 'd', and 'c' in line 2",
            ),
            ("path,produkt\na.jpg,x\n", "unknown column 'produkt'; did you mean 'product'"),
            ("path,split\na.jpg,train\n", "no column 'product'"),
            ("path,product,path\na,x,b\n", "column 'path' twice"),
            ("path,product\na.jpg,x,y\n", "line 2: 3 cells, and the header has 2"),
            ('path,product\n"a.jpg,x\n', "is a quote missing"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "m.csv"
        path.write_text(text)
        with pytest.raises(InvalidArgument) as raised:
            read_manifest(path)
        assert message in raised.value.message
        assert reason_of(raised) == "DATA_INVALID"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"path": "a"', "line 1 is not JSON"),
            ("[1]", "line 1 is not a JSON object"),
            ('{"path": ["a"], "product": "x"}', "line 1: path is not a text"),
            ('{"path": "a", "product": "x", "colour": 1}', "unknown column 'colour'"),
        ],
    )
    def test_jsonl_too(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "m.jsonl"
        path.write_text(text)
        with pytest.raises(InvalidArgument) as raised:
            read_manifest(path)
        assert message in raised.value.message

    def test_several_errors_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "m.csv"
        path.write_text("path,product\n" + "x,\n" * 8)
        with pytest.raises(InvalidArgument, match=r"line 2: .*line 6: .* and 3 more"):
            read_manifest(path)

    def test_files_that_are_no_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="can't be read"):
            read_manifest(tmp_path / "nothing.csv")
        (tmp_path / "latin.csv").write_bytes(b"path,product\na,\xe9\n")
        with pytest.raises(InvalidArgument, match="not UTF-8"):
            read_manifest(tmp_path / "latin.csv")
        (tmp_path / "empty.csv").write_text("path,product\n")
        with pytest.raises(InvalidArgument) as raised:
            read_manifest(tmp_path / "empty.csv")
        assert reason_of(raised) == "DATA_EMPTY"


class TestGrocery:
    def test_the_published_files(self, grocery: Path) -> None:
        found = read_grocery(grocery)
        iconic = [p for p in found if p.catalogue]
        assert (len(iconic), len({p.product for p in iconic}), len({p.category for p in iconic})) == (81, 81, 43)
        by_split = {s: [p for p in found if p.split == s and not p.catalogue] for s in ("train", "validation", "test")}
        assert {s: len(ps) for s, ps in by_split.items() if s != "test"} == {"train": 2640, "validation": 296}
        assert all(p.split == "train" for p in iconic)
        assert by_split["validation"] == read_photographs(grocery, VALIDATION)
        first = read_photographs(grocery, TRAIN)[0]
        assert (first.product, first.category, first.path.is_file()) == ("golden-delicious", "Apple", True)

    def test_its_own_splits_pass(self, grocery: Path) -> None:
        data = read_data_set("grocery", path=grocery)
        assert (len(data.splits.train), len(data.splits.validation), len(data.broken)) == (2640 + 81, 296, 0)

    def test_another_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match=r"it has no classes\.csv") as raised:
            read_grocery(tmp_path)
        assert reason_of(raised) == "DATA_SET_INVALID"

    def test_a_line_that_says_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "d.txt").write_text("a description")
        (tmp_path / "classes.csv").write_text("name,id,coarse,id,iconic,text\nA-B,0,C-D,0,/x/g/a.jpg,/d.txt\n")
        (tmp_path / "train.txt").write_text("train/a.jpg, 0, 0\n\ntrain/b.jpg, 5, 0\n")
        (tmp_path / "val.txt").write_text("")
        with pytest.raises(InvalidArgument, match=r"train\.txt, line 3 is not"):
            read_grocery(tmp_path)
        (tmp_path / "train.txt").write_text("train/a.jpg, 0, 0\n")
        (tmp_path / "test.txt").write_text("test/a.jpg, 0, 0\n")
        assert [(p.product, p.category, p.split, p.catalogue) for p in read_grocery(tmp_path)] == [
            *(("a-b", "C D", "train", True), ("a-b", "C D", "train", False)),
            ("a-b", "C D", "test", False),
        ]


def printed(picture: Image.Image, **options: int) -> Fingerprint:
    data = encoded(picture, "JPEG", **options)
    return fingerprint(data, decode_image(data, SIDE))


class TestFingerprints:
    def test_scaled_and_compressed_anew(self) -> None:
        original = noise(300, 200, 1)
        one = printed(original, quality=95)
        for copy in (
            printed(original, quality=30),
            printed(original.resize((150, 100), Image.Resampling.LANCZOS), quality=85),
            printed(original.resize((100, 66), Image.Resampling.BICUBIC), quality=60),
        ):
            assert copy.sha256 != one.sha256
            assert list(same_pictures([one], [copy])) == [(0, 0)]

    def test_others_are_others(self) -> None:
        prints = [printed(noise(100, 100, seed), quality=90) for seed in range(40)]
        assert list(same_pictures(prints, prints)) == [(i, i) for i in range(40)]

    def test_colour_counts(self) -> None:
        # one drawing in two colours: the hash looks at brightness and takes them for the same
        brightness, _, _ = noise(100, 100, 3).convert("YCbCr").split()
        warm, cold = (
            Image.merge("YCbCr", (brightness, Image.new("L", (100, 100), blue), Image.new("L", (100, 100), red)))
            for blue, red in ((118, 145), (140, 116))
        )
        one, other = (printed(picture.convert("RGB"), quality=95) for picture in (warm, cold))
        assert (one.hash ^ other.hash).bit_count() <= MAX_BITS
        assert list(same_pictures([one], [other])) == []

    def test_the_same_bytes_are_the_same_whatever_part_is_shown(self) -> None:
        data = encoded(noise(100, 100, 1), "JPEG")
        parts = [fingerprint(data, decode_image(data, SIDE, Region(*box))) for box in ((0, 0, 0.5, 1), (0.5, 0, 1, 1))]
        assert list(same_pictures(parts[:1], parts[1:])) == [(0, 0)]

    def test_blocks_do_not_show(self) -> None:
        prints = [printed(noise(40, 40, seed), quality=90) for seed in range(3)] * 400
        pairs = list(same_pictures(prints, prints[:3]))
        assert pairs == [(i, i % 3) for i in range(1200)]
        assert list(same_pictures([], prints)) == list(same_pictures(prints, [])) == []

    def test_real_photographs(self, grocery: Path) -> None:
        photographs = read_photographs(grocery, VALIDATION)[::20]
        originals, copies = [], []
        for photograph in photographs:
            data = photograph.path.read_bytes()
            originals.append(fingerprint(data, decode_image(data, SIDE)))
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            copies.append(printed(picture.resize((picture.width // 2, picture.height // 2)), quality=50))
        assert list(same_pictures(originals, copies)) == [(i, i) for i in range(len(photographs))]


class TestChecks:
    def photographs(self, folder: Path, count: int) -> list[Photograph]:
        return [Photograph(put(folder / f"{n:03}.jpg", n, 32), f"p{n % 7}", split="train") for n in range(count)]

    def test_broken_files_are_listed_and_passed_over(self, tmp_path: Path) -> None:
        photographs = self.photographs(tmp_path, 200)
        photographs[7].path.write_bytes(b"no picture")
        photographs[90].path.unlink()
        done: list[tuple[int, int]] = []
        checked = check_files(photographs, lambda *told: done.append(told))
        assert [file.path for file in checked.broken] == [photographs[7].path, photographs[90].path]
        assert [bool(file.reason) for file in checked.broken] == [True, True]
        assert checked.broken[1].reason == "there is no such file"
        assert list(checked.photographs) == [p for n, p in enumerate(photographs) if n not in (7, 90)]
        assert done == [(1, 200)] * 200

    def test_a_truncated_picture_is_broken(self, tmp_path: Path) -> None:
        photographs = self.photographs(tmp_path, 100)
        whole = photographs[0].path.read_bytes()
        photographs[0].path.write_bytes(whole[: len(whole) // 2])
        assert [file.path for file in check_files(photographs).broken] == [photographs[0].path]

    def test_more_than_one_in_a_hundred_is_an_error(self, tmp_path: Path) -> None:
        photographs = self.photographs(tmp_path, 199)
        for number in (3, 5):
            photographs[number].path.write_bytes(b"")
        with pytest.raises(InvalidArgument, match=r"2 of 199 files.*003\.jpg: .*005\.jpg: ") as raised:
            check_files(photographs)
        assert reason_of(raised) == "DATA_BROKEN"
        with pytest.raises(InvalidArgument) as raised:
            check_files([])
        assert reason_of(raised) == "DATA_EMPTY"

    def test_the_same_picture_in_two_splits(self, tmp_path: Path) -> None:
        train = [Photograph(put(tmp_path / f"t{n}.jpg", n), "p") for n in range(3)]
        asked = [Photograph(put(tmp_path / f"v{n}.jpg", 10 + n), "p") for n in range(3)]
        fingerprints = check_files([*train, *asked]).fingerprints
        check_overlap(Splits(train, asked), fingerprints)
        check_overlap(Splits([*train, train[0]], asked), fingerprints)
        # the same bytes under another name, and a smaller copy
        same = tmp_path / "same.jpg"
        same.write_bytes(train[1].path.read_bytes())
        smaller = tmp_path / "smaller.png"
        smaller.write_bytes(encoded(noise(64, 64, 2).resize((48, 48), Image.Resampling.LANCZOS), "PNG"))
        for path, original in ((same, "t1.jpg"), (smaller, "t2.jpg")):
            copied = Photograph(path, "q")
            prints = check_files([*train, *asked, copied]).fingerprints
            for splits, name in (
                (Splits(train, [*asked, copied]), "validation"),
                (Splits(train, asked, [copied]), "test"),
            ):
                with pytest.raises(InvalidArgument) as raised:
                    check_overlap(splits, prints)
                assert f"{path} ({name}) is {tmp_path / original} (train)" in raised.value.message
                assert reason_of(raised) == "SPLITS_OVERLAP"


def made(count: int, each: int, *, shop: bool = False) -> tuple[list[Photograph], dict[Place, Fingerprint]]:
    """Photographs of `count` products, all different, that are nowhere."""
    photographs = [
        Photograph(Path(f"/p{product}/{number}.jpg"), f"p{product:02}", catalogue=shop and number == 0)
        for product in range(count)
        for number in range(each)
    ]
    return photographs, {p.place: unlike(number) for number, p in enumerate(photographs)}


def unlike(number: int) -> Fingerprint:
    rng = np.random.default_rng(number)
    return Fingerprint(f"{number:064}", int(rng.integers(2**63)), rng.integers(0, 256, 768, np.uint8).tobytes())


def sizes_of(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


SHARES = {"validation_share": 0.2, "test_share": 0.1}


class TestSplits:
    @pytest.mark.parametrize("split", [split_images, split_products])
    def test_the_order_of_files_does_not_matter_and_the_seed_does(self, split) -> None:
        photographs, prints = made(12, 6)
        shuffled = random.Random(1).sample(photographs, len(photographs))
        one, other = split(photographs, prints, **SHARES), split(shuffled, prints, **SHARES)
        assert set(one.validation) == set(other.validation)
        assert set(one.test) == set(other.test)
        assert set(split(photographs, prints, **SHARES, seed=2).validation) != set(one.validation)
        everything = [*one.train, *one.validation, *one.test]
        assert {replace(p, split="") for p in everything} == set(photographs)
        assert len(everything) == len(photographs)
        assert {p.split for p in one.validation} == {"validation"}

    def test_images_are_split_within_each_product(self) -> None:
        splits = split_images(*made(10, 10), **SHARES)
        assert sizes_of(splits) == (70, 20, 10)
        for part, count in ((splits.train, 7), (splits.validation, 2), (splits.test, 1)):
            assert {p: [q.product for q in part].count(p) for p in {q.product for q in part}} == {
                f"p{n:02}": count for n in range(10)
            }

    def test_small_products_share_what_is_asked(self) -> None:
        # 0.1 of 4 is less than one picture, and 0.1 of 160 is 16
        assert sizes_of(split_images(*made(40, 4), validation_share=0.1)) == (144, 16, 0)

    def test_a_product_keeps_something_to_learn(self) -> None:
        photographs, prints = made(20, 2)
        single = Photograph(Path("/single.jpg"), "single")
        splits = split_images([*photographs, single], prints | {single.place: unlike(999)}, validation_share=0.8)
        assert {p.product for p in splits.train} == {p.product for p in [*photographs, single]}
        assert sizes_of(splits) == (21, 20, 0)

    def test_the_shops_own_pictures_stay_in_training(self) -> None:
        splits = split_images(*made(10, 5, shop=True), validation_share=0.6)
        assert sum(p.catalogue for p in splits.train) == 10
        assert not any(p.catalogue for p in splits.validation)

    def test_products_are_whole(self) -> None:
        splits = split_products(*made(20, 3), **SHARES)
        assert sizes_of(splits) == (42, 12, 6)
        products = [{p.product for p in part} for part in (splits.train, splits.validation, splits.test)]
        assert sum(map(len, products)) == 20

    def test_the_same_picture_stays_together(self) -> None:
        photographs, prints = made(10, 4)
        # the first two pictures of each product are one
        prints |= {photographs[i + 1].place: prints[photographs[i].place] for i in range(0, 40, 4)}
        for seed in range(8):
            splits = split_images(photographs, prints, validation_share=0.5, seed=seed)
            check_overlap(splits, prints)
        # products 0 and 1 share one, 1 and 2 another
        prints[photographs[4].place] = prints[photographs[2].place]
        prints[photographs[8].place] = prints[photographs[6].place]
        for seed in range(8):
            splits = split_products(photographs, prints, validation_share=0.3, seed=seed)
            check_overlap(splits, prints)
            assert {p.product for p in splits.train} >= {"p00", "p01", "p02"} or {
                p.product for p in splits.validation
            } >= {"p00", "p01", "p02"}
            check_overlap(split_images(photographs, prints, validation_share=0.5, seed=seed), prints)

    def test_by_file(self) -> None:
        photographs, _ = made(2, 2)
        given = [
            replace(p, split=s) for p, s in zip(photographs, ("train", "validation", "test", "train"), strict=True)
        ]
        assert sizes_of(split_by_file(given)) == (2, 1, 1)
        with pytest.raises(InvalidArgument, match=r"/p0/0\.jpg is in no split") as raised:
            split_by_file(photographs)
        assert reason_of(raised) == "DATA_SPLIT_MISSING"

    def test_nothing_to_validate_with(self) -> None:
        photographs, prints = made(5, 1)
        for attempt in (
            lambda: split_by_file([replace(p, split="train") for p in photographs]),
            lambda: split_by_file([replace(p, split="validation") for p in photographs]),
            lambda: split_images(photographs, prints, validation_share=0.5),
            lambda: split_products(photographs[:1], prints, validation_share=0.5),
            # what there is for validation are the shop's own pictures
            lambda: split_by_file(
                [replace(p, split="validation" if n else "train", catalogue=n > 0) for n, p in enumerate(photographs)]
            ),
        ):
            with pytest.raises(InvalidArgument, match="nothing is left for") as raised:
                attempt()
            assert reason_of(raised) == "DATA_SPLIT_EMPTY"

    def test_limit(self) -> None:
        photographs, _ = made(6, 9, shop=True)
        few = limit(photographs, products=2, images_per_product=3)
        assert [p.path.as_posix() for p in few] == [
            f"/p{product}/{number}.jpg" for product in (0, 1) for number in (0, 1, 5, 8)
        ]
        assert limit(photographs) == photographs


class TestDataSet:
    def shop(self, folder: Path, each: int = 6) -> Path:
        for product in range(5):
            for number in range(each):
                put(folder / f"p{product}" / f"{number}.jpg", 100 * product + number, 40)
        return folder

    def test_from_folder_to_splits(self, tmp_path: Path) -> None:
        told: list[int] = []
        data = read_data_set(
            "folder",
            path=self.shop(tmp_path),
            split="images",
            validation_share=0.3,
            images_per_product=2,
            progress=lambda done, total: told.append(done),
        )
        assert sizes_of(data.splits) == (10, 9, 0)
        assert sum(told) == 30

    def test_what_is_not_wanted_is_not_looked_at(self, tmp_path: Path) -> None:
        rows = [f"p{p}/{n}.jpg,p{p},{'train' if n else 'validation'}" for p in range(5) for n in range(6)]
        self.shop(tmp_path)
        (tmp_path / "m.csv").write_text("path,product,split\n" + "\n".join(rows))
        (tmp_path / "p4" / "0.jpg").write_bytes(b"broken")
        (tmp_path / "p0" / "2.jpg").write_bytes(b"broken")
        with pytest.raises(InvalidArgument, match="2 of 30 files"):
            read_data_set("manifest", path=tmp_path / "m.csv")
        data = read_data_set("manifest", path=tmp_path / "m.csv", products=3, images_per_product=2)
        assert sizes_of(data.splits) == (6, 3, 0)

    def test_overlap_is_found(self, tmp_path: Path) -> None:
        for number in range(3):
            put(tmp_path / "train" / "a" / f"{number}.jpg", number)
        put(tmp_path / "validation" / "a" / "9.jpg", 1)
        with pytest.raises(InvalidArgument) as raised:
            read_data_set("folder", path=tmp_path)
        assert reason_of(raised) == "SPLITS_OVERLAP"

    def test_unlabelled(self, tmp_path: Path) -> None:
        put(tmp_path / "1.jpg", 1)
        put(tmp_path / "deep" / "er" / "2.png", 2)
        photographs, broken = read_unlabelled(tmp_path)
        assert [(p.path.name, p.product) for p in photographs] == [("1.jpg", ""), ("2.png", "")]
        assert not broken

    def test_unknown_ways(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no such source"):
            read_data_set("ftp", path=tmp_path)
        with pytest.raises(InvalidArgument, match="none of file, images, products"):
            read_data_set("folder", path=self.shop(tmp_path, 1), split="luck")
