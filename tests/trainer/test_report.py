"""The training report: its numbers and words, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from services.common.products import Region
from services.photographs.photograph import Photograph
from services.trainer.recipe import Recipe
from services.trainer.report import formats
from services.trainer.report.charts import Chart, Series
from services.trainer.report.contents import (
    Augmented,
    BrokenFile,
    Compatibility,
    Confusion,
    Corruption,
    EmbeddingSize,
    Epoch,
    GroupRecall,
    Match,
    Precision,
    Protocol,
    Report,
    Robustness,
    SplitCount,
    WorstQuery,
)
from services.trainer.report.curves import epoch_charts, size_chart
from services.trainer.report.page import (
    MAX_WORST,
    mean_recalls,
    metric_rows,
    render,
    sections,
    worst_first,
    write_report,
)
from services.trainer.report.thumbnails import SIDE, Thumbnails
from services.trainer.report.verdict import Kind, verdict
from tests.trainer.browser import Browser, Page

HOSTILE = "<script>window.hacked = 1</script>\"'><img src=x onerror=window.hacked=1>{{ 7 * 7 }}"
PHONE_WIDTH = 360


def drawing(seed: int, width: int = 300, height: int = 200) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: blocks of colour."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.jpg" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(drawing(number)).save(path)
    return paths


@pytest.fixture(scope="module")
def full(pictures: list[Path]) -> Report:
    """With something in every section, a hostile text in every place that takes one, and a file that is broken."""
    broken = pictures[0].with_name("broken.jpg")
    broken.write_bytes(b"junk")
    long = "a-product-with-a-very-long-name-that-has-no-space-" * 2

    def metrics(first: float) -> dict[str, float]:
        fine = {
            "recall@1": first,
            "recall@5": first + 0.1,
            "recall@10": first + 0.12,
            "map@r": 0.4,
            "mrr": first + 0.05,
        }
        return fine | {f"coarse {name}": value + 0.01 for name, value in fine.items()} | {HOSTILE: 0.5}

    def query(number: int) -> WorstQuery:
        found = [
            Match(HOSTILE, 0.91, pictures[number % 6]),
            Match("b", 0.9, drawing(9)),
            Match("right", 0.8, broken),
        ]
        right = Match("right", 0.4, pictures[1]) if number else None
        return WorstQuery("right" if number else HOSTILE, pictures[2], found, right, 17)

    return Report(
        name=HOSTILE,
        version=7,
        previous=HOSTILE,
        served="int8",
        created=HOSTILE,
        facts={HOSTILE: HOSTILE, "Device": "CPU"},
        recipe=Recipe.model_validate({"name": "tiny", "data": {"path": HOSTILE}, "optimiser": {"epochs": 3}}),
        recipe_text=HOSTILE,
        splits=[SplitCount(HOSTILE, 3, 1234, 5)],
        broken=[BrokenFile(HOSTILE, HOSTILE), BrokenFile("caf\udce9.jpg", "its name is not UTF-8")],
        epochs=[
            Epoch(1, 3.0, None, stage=HOSTILE, rates={HOSTILE: 1e-4}),
            Epoch(1, 2.0, 0.4, 2.5, {HOSTILE: 1e-3, "head": 1e-2}, 14.0, 200.0, best=True),
            Epoch(2, 1.0, 0.6, 2.0, {HOSTILE: 0.0, "head": 1e-3}, 14.0, 200.0, best=True),
            Epoch(3, math.nan, 0.5, 2.1, {HOSTILE: 0.0, "head": 0.0}),
        ],
        protocols=[
            Protocol(HOSTILE, 296, 2640, metrics(0.5), metrics(0.7), metrics(0.69), 70, 14, HOSTILE),
            Protocol("Photographs in catalogue images", 296, 81, metrics(0.2), metrics(0.4), metrics(0.4)),
        ],
        categories=[GroupRecall(HOSTILE, 12, 0.9, 0.5), GroupRecall(long, 3, 0.4, 0.8), GroupRecall("new", 1, 1.0)],
        products=[GroupRecall(f"{HOSTILE}{number}", number + 1, 0.5, number / 30) for number in range(30)],
        worst=[query(number) for number in range(MAX_WORST + 5)],
        confusions=[Confusion(HOSTILE, long, 3, 9, pictures[3], drawing(3, 40, 400))],
        robustness=Robustness(
            0.7, [Corruption(HOSTILE, [0.7, 0.6, 0.5, 0.4, 0.3], [0.5, 0.4, 0.3, 0.2, 0.1])] * 15, 0.5, HOSTILE
        ),
        sizes=[EmbeddingSize(HOSTILE, d, 4 * d, d / 1024) for d in (64, 128, 256, 512)],
        precisions=[
            Precision(HOSTILE, 24_000_000, 12.5, 0.7, 1.0),
            Precision("INT8", 6_200_000, 6.1, 0.69, 0.998, True),
        ],
        latency_note=HOSTILE,
        augmented=[Augmented(pictures[4], [drawing(n, 64, 64) for n in range(7)], HOSTILE)] * 3,
        warnings=[HOSTILE],
        compatibility=[Compatibility(HOSTILE, HOSTILE, metrics(0.5), metrics(0.6), metrics(0.7))],
    )


class References(HTMLParser):
    """What a page points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("link", "iframe", "object", "embed", "base"):
            self.found.append(tag)
        places = ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "background")
        self.found += [value or "" for name, value in attrs if name in places]


# --- words and numbers ----------------------------------------------------------------------------------------------


def test_numbers_are_shown_for_people_and_what_is_missing_is_a_dash() -> None:
    assert formats.percent(0.8612) == "86.1\u202f%"
    assert [formats.points(v) for v in (0.0312, -0.0312, 0.0001, -0.0001)] == ["+3.1", "\u22123.1", "0.0", "0.0"]
    assert formats.count(2640) == "2\u202f640"
    assert [formats.size(v) for v in (999, 6_230_000, 2_048_000_000)] == [
        "999\u202fB",
        "6.2\u202fMB",
        "2.0\u202fGB",
    ]
    assert formats.plural(1, "query") == "1 query"
    assert formats.plural(2, "query") == "2 queries"
    assert formats.significant(2.7, 3, padded=True) == "2.70"
    for shown in (formats.percent, formats.points, formats.decimal, formats.significant):
        assert shown(None) == shown(math.nan) == formats.MISSING
    assert formats.difference(0.5, None) is formats.difference(math.nan, 0.5) is None


def protocol(before: float, after: float, queries: int = 296, moved: tuple[int, int] | None = None) -> Protocol:
    gained, lost = moved or (None, None)
    return Protocol("Photographs", queries, 100, {"recall@1": before}, {"recall@1": after}, gained=gained, lost=lost)


@pytest.mark.parametrize(
    ("measured", "kind"),
    [
        (protocol(0.52, 0.86), Kind.BETTER),
        (protocol(0.86, 0.52), Kind.WORSE),
        (protocol(0.52, 0.56), Kind.UNCLEAR),
        # the same 4 points, when it is known that hardly a query was lost for them
        (protocol(0.52, 0.56, moved=(13, 1)), Kind.BETTER),
        (protocol(0.56, 0.52, moved=(1, 13)), Kind.WORSE),
        (protocol(0.52, 0.52, moved=(0, 0)), Kind.UNCLEAR),
        # one query says nothing, however it went
        (protocol(0.0, 1.0, queries=1, moved=(1, 0)), Kind.UNCLEAR),
        (protocol(0.0, 1.0, queries=1), Kind.UNCLEAR),
        (protocol(0.0, math.nan), Kind.UNKNOWN),
        (protocol(0.0, 0.0, queries=0), Kind.UNKNOWN),
        (Protocol("Photographs", 296, 100, {}, {"recall@1": 0.6}), Kind.UNKNOWN),
    ],
)
def test_the_verdict_tells_a_difference_from_chance(measured: Protocol, kind: Kind) -> None:
    assert verdict(Report("x", protocols=[measured])).kind is kind


def test_the_verdict_is_about_what_is_served() -> None:
    measured = replace(protocol(0.5, 0.9), int8={"recall@1": 0.2})
    fp32 = verdict(Report("x", previous="version 1", protocols=[measured]))
    int8 = verdict(Report("x", previous="version 1", protocols=[measured], served="int8"))
    assert fp32.headline == "Better than version 1: +40.0 points of recall@1"
    assert "90.0\u202f% of 296 queries, 50.0\u202f% before" in fp32.detail
    assert int8.headline == "Worse than version 1: \u221230.0 points of recall@1"
    assert "INT8" in int8.detail


def test_the_margin_of_unpaired_queries_is_the_textbooks() -> None:
    # Agresti and Caffo: 53/102 and 63/102; 1.96 * sqrt((0.5196 * 0.4804 + 0.6176 * 0.3824) / 102)
    detail = verdict(Report("x", protocols=[protocol(0.52, 0.62, queries=100)])).detail
    assert "chance alone can make 13.5 points" in detail


def test_groups_that_lost_most_come_first_and_those_without_before_last() -> None:
    groups = [GroupRecall("new", 1, 0.1), GroupRecall("up", 1, 0.9, 0.2), GroupRecall("down", 1, 0.1, 0.4)]
    same = [GroupRecall("same, good", 1, 0.9, 0.9), GroupRecall("same, bad", 1, 0.3, 0.3)]
    names = [group.name for group in worst_first([*groups, *same])]
    assert names == ["down", "same, bad", "same, good", "up", "new"]


def test_metrics_have_their_order_and_their_names() -> None:
    measured = Protocol("x", 1, 1, {"coarse mrr": 1.0}, {"other": 1.0, "mrr": 1.0, "recall@5": 1.0, "recall@1": 1.0})
    (_, fine), (_, coarse) = metric_rows(measured)
    assert fine == [("recall@1", "recall@1"), ("recall@5", "recall@5"), ("MRR", "mrr"), ("other", "other")]
    assert coarse == [("MRR", "coarse mrr")]


def test_mean_recalls_are_over_all_corruptions() -> None:
    means = mean_recalls(Robustness(0.9, [Corruption("fog", [0.8, 0.4], [0.2, 0.2]), Corruption("snow", [0.6])]))
    assert means["severities"] == pytest.approx([0.7, 0.4])
    assert means["after"] == pytest.approx(0.6)
    assert means["before"] == pytest.approx(0.2)
    assert means["rows"][1] == (0.6, None)


# --- charts ---------------------------------------------------------------------------------------------------------


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    points = [(1.0, 1.0), (2.0, math.nan), (3.0, 2.0), (4.0, 3.0)]
    svg = Chart("Loss", "epoch", [Series("training", points)], formats.significant).svg()
    path = re.search(r'class="line s0" d="([^"]+)"', svg)
    assert path
    assert re.sub(r"[\d. ]", "", path[1]) == "MML"
    assert svg.count("<circle") == 3
    assert 'aria-label="Loss: training from 1 to 3"' in svg
    assert "nan" not in svg


@pytest.mark.parametrize("values", [[0.5], [0.0], [2.0, 2.0], [1e-9, 1e9], [-1.0, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_values_stay_inside_the_frame(values: list[float], log: bool) -> None:
    points = [(float(number), value) for number, value in enumerate(values)]
    svg = Chart("x", "x", [Series("x", points)], formats.significant, log_y=log).svg()
    for y in re.findall(r'cy="([^"]+)"', svg):
        assert 20 <= float(y) <= 200
    assert "nan" not in svg
    assert bool(svg) is (not log or max(values) > 0)


def test_curves_show_every_stage_and_mark_the_last_best_epoch() -> None:
    epochs = [
        Epoch(1, 1.0, stage="pretrain"),
        Epoch(1, 0.9, 0.5, best=True),
        Epoch(2, 0.8, 0.7, best=True),
        Epoch(3, 0.7, 0.6),
    ]
    loss, recall = epoch_charts(epochs)
    assert [line.name for line in loss.series] == ["training"]
    assert loss.dividers == [(1.5, "train")]
    assert recall.mark is not None
    assert recall.mark[:2] == (3.0, 0.7)
    assert epoch_charts([]) == []
    assert size_chart([EmbeddingSize("float32", 8, 32, 0.5)]) is None


# --- pictures -------------------------------------------------------------------------------------------------------


def decoded(uri: str | None) -> Image.Image:
    assert uri is not None
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_thumbnails_keep_the_shape_and_show_the_region(tmp_path: Path) -> None:
    halves = Image.new("RGB", (400, 200), "red")
    halves.paste("blue", (200, 0, 400, 200))
    halves.save(tmp_path / "halves.png")
    whole = decoded(Thumbnails().uri(tmp_path / "halves.png"))
    from_array = decoded(Thumbnails().uri(np.asarray(halves)))
    part = decoded(Thumbnails().uri(Photograph(tmp_path / "halves.png", "x", region=Region(0.5, 0, 1, 1))))
    for picture in (whole, from_array):
        assert picture.size == (SIDE, SIDE)
        assert np.allclose(picture.getpixel((80, 10)), (255, 255, 255), atol=12)
        assert np.allclose(picture.getpixel((30, 80)), (255, 0, 0), atol=12)
    assert np.allclose(part.getpixel((30, 10)), (0, 0, 255), atol=12)


def test_a_file_that_is_broken_or_gone_has_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "junk.jpg").write_bytes(b"junk")
    assert Thumbnails().uri(tmp_path / "junk.jpg") is None
    assert Thumbnails().uri(tmp_path / "gone.jpg") is None


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_that_is_no_picture_is_refused(array: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="a picture is uint8"):
        Thumbnails().uri(array)


# --- the page -------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(full: Report) -> None:
    page = render(full)
    inside = {f"#{section.id}" for section in sections(full)}
    outside = [found for found in References(page).found if found not in inside]
    assert outside
    assert all(found.startswith("data:image/jpeg;base64,") for found in outside)
    assert not re.search(r"https?://|url\(|@import", page)


def test_every_text_is_escaped(full: Report) -> None:
    page = render(full)
    assert page.count("<script>") == 1
    assert "<img src=x" not in page
    assert "window.hacked" in page
    assert "{{ 7 * 7 }}" in page


def test_long_lists_are_cut(full: Report) -> None:
    assert render(full).count('class="tile query"') == MAX_WORST


@pytest.mark.parametrize(
    "absent",
    [
        "protocols",
        "epochs",
        "categories",
        "worst",
        "confusions",
        "robustness",
        "sizes",
        "precisions",
        "augmented",
        "compatibility",
    ],
)
def test_what_is_absent_has_no_section_and_is_named(full: Report, absent: str) -> None:
    report = replace(full, **{absent: None if absent == "robustness" else ()})
    if absent == "categories":
        report = replace(report, products=())
    page = render(report)
    missing = [section for section in sections(report) if not section.present]
    assert missing
    for section in missing:
        assert f'id="{section.id}"' not in page
        assert section.title.lower() in page.partition("Not in this report")[2]
    assert "Not in this report" not in render(full)


def test_an_empty_report_is_a_page() -> None:
    page = render(Report("tiny"))
    assert "Not measured" in page
    assert "<section" not in page


def test_partial_values_leave_dashes() -> None:
    report = Report(
        "tiny",
        protocols=[Protocol("Photographs", 3, 9, fp32={"recall@1": 0.5})],
        epochs=[Epoch(1, math.nan)],
        robustness=Robustness(0.5, [Corruption("fog", [0.4, 0.3]), Corruption("snow", [0.4])]),
        precisions=[Precision("FP32", 100)],
        products=[GroupRecall("a", 1, 0.5)],
    )
    page = render(report)
    assert formats.MISSING in page
    assert "nan" not in page
    assert "nothing to compare it with" in page
    assert "Before, it fell" not in page


def test_the_recipe_shows_what_differs_from_the_default() -> None:
    recipe = Recipe.model_validate({"name": "tiny", "data": {"path": "x"}, "model": {"dimension": 64}})
    page = render(Report("tiny", recipe=recipe))
    shown = page.partition("<summary>All")[0]
    assert "2 settings of" in shown
    assert "<code>model.dimension</code>" in shown
    assert "<code>model.side</code>" not in shown
    assert "<code>model.side</code>" in page
    assert "&#34;dimension&#34;: 64" in page


def test_the_report_is_written_whole_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, Report("one"))
    write_report(path, Report("two"))
    assert "two" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_torch_is_not_needed() -> None:
    code = "import sys, services.trainer.report.page; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


# --- in a real browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(full: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, full)
    return path


BROKEN_IMAGES = """Promise.all([...document.images].map(image => image.decode().then(
    () => image.naturalWidth > 0 ? [] : [image.alt], () => [image.alt]))).then(found => found.flat())"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE_WIDTH], ids=["desktop", "phone"])
def test_it_opens_without_a_complaint_and_fits(browser: Browser, file: Path, width: int, dark: bool) -> None:
    page = Page(browser, file, width=width, dark=dark)
    assert page.evaluate("document.images.length") > 100
    assert page.evaluate(BROKEN_IMAGES) == []
    assert page.evaluate("innerWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("window.hacked === undefined")
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith("data:")] == [file.as_uri()]


def test_dark_and_light_differ_and_can_be_read(browser: Browser, file: Path) -> None:
    # WCAG 2: the contrast of two colours of the page, at least 4.5 for text
    contrast = """(() => {
        const luminance = color => color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const card = getComputedStyle(document.querySelector('.card')).backgroundColor;
        const paper = getComputedStyle(document.body).backgroundColor;
        return [...'up down note headline eyebrow block'.split(' ')].flatMap(kind => [card, paper].map(back => {
            const [a, b] = [getComputedStyle(document.querySelector('.' + kind)).color, back].map(luminance);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }));
    })()"""
    papers = []
    for dark in (False, True):
        page = Page(browser, file, dark=dark)
        assert min(page.evaluate(contrast)) >= 4.5
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] != papers[1]


ORDER = "[...document.querySelectorAll('#categories table')[1].tBodies[0].rows].map(row => +row.cells[5].dataset.value)"


def test_tables_are_sorted_by_a_click(browser: Browser, file: Path) -> None:
    page = Page(browser, file)
    queries = "document.querySelectorAll('#categories table')[1].tHead.rows[0].cells[5]"
    best_first = page.evaluate(ORDER)
    assert best_first == sorted(best_first, reverse=True)
    page.evaluate(f"{queries}.querySelector('button').click()")
    assert page.evaluate(ORDER) == list(range(1, 31))
    assert page.evaluate(f"{queries}.getAttribute('aria-sort')") == "ascending"
    page.evaluate(f"{queries}.querySelector('button').click()")
    assert page.evaluate(ORDER) == list(range(30, 0, -1))
    assert (
        page.evaluate("document.querySelectorAll('#categories table')[1].querySelectorAll('[aria-sort]').length") == 1
    )


def test_a_value_that_is_missing_stays_last_whichever_way_is_sorted(browser: Browser, file: Path) -> None:
    page = Page(browser, file)
    table = "document.querySelector('#categories table')"
    for _ in range(2):
        page.evaluate(f"{table}.tHead.rows[0].cells[3].querySelector('button').click()")
        assert page.evaluate(f"[...{table}.tBodies[0].rows].at(-1).cells[0].textContent") == "new"


def test_it_is_complete_without_scripts(browser: Browser, file: Path) -> None:
    page = Page(browser, file, scripts=False)
    assert page.evaluate("document.querySelectorAll('th button').length") == 0
    assert page.evaluate("document.querySelectorAll('section').length") == 13
    assert page.evaluate(BROKEN_IMAGES) == []


def test_its_policy_keeps_scripts_and_addresses_out(browser: Browser, full: Report, tmp_path: Path) -> None:
    """What would happen if a text did get through as markup."""
    path = tmp_path / "report.html"
    hole = (
        "<script>window.hacked = 1</script><img src='https://outside.invalid/pixel.png' onerror='window.hacked = 1'>"
        "<link rel='stylesheet' href='https://outside.invalid/style.css'><audio src='https://outside.invalid/a'></audio>"
    )
    path.write_text(render(full).replace("</main>", hole + "</main>"), encoding="utf-8")
    page = Page(browser, path)
    assert page.evaluate("window.hacked === undefined")
    for refused in ("script", "pixel.png", "style.css", "outside.invalid/a'"):
        assert any("Content Security Policy" in problem and refused in problem for problem in page.problems), refused
    assert page.evaluate("document.querySelectorAll('th button').length") > 0


def test_it_speaks_to_those_who_do_not_see_it(browser: Browser, file: Path) -> None:
    page = Page(browser, file)
    assert page.evaluate("[...document.images].filter(image => !image.alt.trim()).length") == 0
    assert (
        page.evaluate("[...document.querySelectorAll('svg.chart')].filter(c => !c.getAttribute('aria-label')).length")
        == 0
    )
    assert page.evaluate("document.querySelectorAll('svg.chart').length") == 4
    assert page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    assert page.evaluate("[...document.querySelectorAll('table')].filter(table => !table.caption).length") == 0
    assert (
        page.evaluate("[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length")
        == 0
    )
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    gap = "document.querySelector('.gap').getAttribute('aria-label')"
    assert page.evaluate(gap) == "Found at place 3: right: can't be read"


def test_it_prints_on_paper_width(browser: Browser, file: Path) -> None:
    page = Page(browser, file, width=690, dark=True)
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_real_photographs_stay_within_a_few_megabytes(browser: Browser, grocery: Path, tmp_path: Path) -> None:
    photographs = [grocery / line.partition(",")[0] for line in (grocery / "val.txt").read_text().splitlines()]

    def match(number: int) -> Match:
        return Match("x", 0.5, photographs[number % len(photographs)])

    worst = [WorstQuery("y", photographs[n], [match(5 * n + k) for k in range(3)], match(7 * n)) for n in range(20)]
    confusions = [Confusion("x", "y", 1, 2, photographs[-n], photographs[-2 * n]) for n in range(1, 21)]
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in photographs[:7]]
    augmented = [Augmented(photographs[n], pixels) for n in range(12)]
    path = tmp_path / "report.html"
    write_report(path, Report("grocery", worst=worst, confusions=confusions, augmented=augmented))
    assert path.stat().st_size < 4_000_000
    page = Page(browser, path)
    assert page.evaluate("document.images.length") == 20 * 5 + 20 * 2 + 12 * 8
    assert page.evaluate(BROKEN_IMAGES) == []
    assert page.problems == []
