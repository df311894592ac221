"""The command as a whole: help, and errors as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

LOOKALIKE = Path(sys.prefix) / "bin" / "lookalike"
NOBODY = "127.0.0.1:1"


def lookalike(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LOOKALIKE, *arguments], capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_help_names_the_commands_without_loading_them() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from services.cli.main import COMMANDS, app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert result.exit_code == 0\n"
        "assert all(name in result.output for name in COMMANDS)\n"
        "print([name for name in ('grpc', 'PIL', 'numpy', 'services.local') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["demo"],
        ["import"],
        ["search"],
        ["status"],
        ["products", "get"],
        ["products", "list"],
        ["products", "delete"],
    ],
    ids=" ".join,
)
def test_every_command_shows_an_example(command: list[str]) -> None:
    ran = lookalike(*command, "--help")
    assert ran.returncode == 0, ran.stderr
    assert f"Example: lookalike {' '.join(command)}" in " ".join(ran.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], f"no gateway answers at {NOBODY}"),
        (["products", "get", "x"], f"no gateway answers at {NOBODY}"),
        (["products", "delete", "x", "--yes"], f"no gateway answers at {NOBODY}"),
        (["import", "pictures"], f"no gateway answers at {NOBODY}"),
        (["search", "pictures/a.png"], f"no gateway answers at {NOBODY}"),
        (["search", "none.png"], "none.png does not exist"),
        (["search", "products/x", "--region", "0,0,1,1"], "needs a picture"),
        (["import", "none"], "there is no none"),
        (["import", "bad.csv"], "did you mean 'colors'?"),
        (["demo", "--data-set", "."], "is not the Grocery Store Dataset"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_exit_code_1(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "pictures" / "a.png")
    (tmp_path / "bad.csv").write_text("id,image,colour\na,b.png,red\n")
    address = [] if arguments[0] == "demo" else ["--address", NOBODY]
    ran = lookalike(*arguments, *address, cwd=tmp_path)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert len(ran.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in ran.stderr


def test_a_dry_run_needs_no_gateway_and_finds_what_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"text")
    (tmp_path / "empty.png").touch()
    ran = lookalike("import", str(tmp_path), "--dry-run", "--json", "--address", NOBODY, cwd=tmp_path)
    assert ran.returncode == 1
    summary = json.loads(ran.stdout)
    assert (summary["products"]["written"], summary["rejected"], summary["dry_run"]) == (1, 2, True)
    rejects = [json.loads(line) for line in (tmp_path / "import-rejects.jsonl").read_text().splitlines()]
    assert {reject["reason"] for reject in rejects} == {"IMAGE_EMPTY", "IMAGE_NOT_RECOGNISED"}
