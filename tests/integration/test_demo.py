"""The demo, from an empty data directory to its contact sheet, and once more."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw

LOOKALIKE = Path(sys.prefix) / "bin" / "lookalike"

pytestmark = pytest.mark.timeout(600)


async def demo(folder: Path, *arguments: str | Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(LOOKALIKE, "demo", *map(str, arguments)),
        cwd=folder,
        env={"PATH": "", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_the_demo_finds_what_it_must_twice(tmp_path: Path, model_repository: Path, engines) -> None:
    for again in (False, True):
        code, out = await demo(tmp_path, "--model-repository", model_repository)
        assert code == 0, out
        assert "IMAGE_TRUNCATED" in out
        assert "Backpack" in out
        assert ("all there already" in out) == again
        assert Image.open(io.BytesIO((tmp_path / "demo-contact-sheet.png").read_bytes())).width > 1000
        left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
        assert not left


async def test_a_demo_that_finds_too_little_fails(tmp_path: Path, model_repository: Path, engines) -> None:
    """A shop of four products has no five neighbours of the apple."""
    catalogue = tmp_path / ".lookalike-demo" / "drawings" / "catalogue"
    (catalogue / "images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(("backpack", "running-shoe", "red-apple", "pear")):
        image = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(image).ellipse((20, 20, 60 + number * 20, 100), fill=(250 - number * 60, number * 60, 90))
        image.save(catalogue / "images" / f"{name}.png")
        row = {"id": name, "image": f"images/{name}.png", "category": "clothing", "price": 3}
        lines.append(json.dumps(row) + "\n")
    (catalogue / "products.jsonl").write_text("".join(lines))
    code, out = await demo(tmp_path, "--model-repository", model_repository)
    assert code == 1
    assert "not as it must be: search 3: 3 results, and there are 5" in out


async def test_the_demo_with_photographs(tmp_path: Path, model_repository: Path, engines, grocery: Path) -> None:
    code, out = await demo(tmp_path, "--model-repository", model_repository, "--data-set", grocery)
    assert code == 0, out
    assert "81 products" in out
    assert "296 photographs" in out
