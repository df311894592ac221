"""`lookalike rollout`, `rollback` and `models`: what they ask of the service, what they print, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.rollout.models import ModelInfo, ModelState
from services.rollout.record import Missing, Options, Stage, Status
from tests.unit.rollouts import StandIn, served
from tests.unit.test_rollout_models import manifest

PATIENCE_S = 60
NOBODY = "127.0.0.1:1"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Command:
    """`lookalike`, with a stand-in behind the service that it talks to."""

    rollouts: StandIn
    address: str
    folder: Path

    def env(self) -> dict[str, str]:
        return os.environ | {"LOOKALIKE_ROLLOUT_ADDRESS": self.address, "COLUMNS": "100"}

    async def begin(self, *arguments: str, **how: int) -> asyncio.subprocess.Process:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE} | how
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", *arguments), cwd=self.folder, env=self.env(), **pipes
        )

    async def run(self, *arguments: str) -> Ran:
        return await self.end(await self.begin(*arguments))

    async def end(self, process: asyncio.subprocess.Process) -> Ran:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        assert "Traceback" not in err.decode()
        return Ran(process.returncode, (out or b"").decode(), err.decode())

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.02)


@pytest.fixture
async def lookalike(tmp_path: Path) -> AsyncIterator[Command]:
    rollouts = StandIn()
    async with served(rollouts) as address:
        yield Command(rollouts, address, tmp_path)


async def test_options_reach_the_service(lookalike: Command) -> None:
    ran = await lookalike.run(
        *("rollout", "start", "2", "--canary", "10%", "--shadow", "0.05", "--auto", "--compatible"),
        *("--golden", "photographs", "--tolerance", "2%", "--category-tolerance", "0%"),
        *("--latency-budget", "100ms", "--missing-originals", "skip", "--retention", "30m"),
    )
    assert ran == Ran(0, "rollouts/r1 has begun: lookalike rollout status --watch follows it\n", "")
    golden = str(lookalike.folder / "photographs")
    wanted = Options(0.1, 0.05, False, True, True, golden, 0.02, 0, 100, Missing.SKIP, 1800)
    assert lookalike.rollouts.asked == [(2, wanted)]


async def test_without_options_the_defaults_are_asked_for(lookalike: Command) -> None:
    ran = await lookalike.run("rollout", "start", "2", "--json")
    assert lookalike.rollouts.asked == [(2, Options())]
    assert json.loads(ran.out)["name"] == "rollouts/r1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rollout", "start", "2", "--canary", "10"], "--canary: 10 is more than everything; write 10% or 0.1"),
        (["rollout", "start", "2", "--retention", "24"], "--retention: '24' is no duration"),
        (["rollout", "start", "2", "--latency-budget", "2h"], "latency_budget is 7200 s"),
        (["rollout", "status"], "there is no rollouts/"),
        (["rollout", "status", "--watch"], "there is no rollouts/"),
        (["rollout", "promote"], "there is no rollouts/"),
        (["rollout", "cancel"], "there is no rollouts/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_an_error_is_one_line(lookalike: Command, arguments: list[str], said: str) -> None:
    ran = await lookalike.run(*arguments)
    assert (ran.code, ran.out) == (1, "")
    (line,) = ran.err.splitlines()
    assert line.startswith(f"error: {said}")
    assert lookalike.rollouts.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollout", "start", "2"],
        ["rollout", "status"],
        ["rollout", "promote"],
        ["rollout", "cancel"],
        ["rollback"],
        ["models", "retire", "1"],
    ],
    ids=" ".join,
)
async def test_a_service_that_is_not_there_is_named(lookalike: Command, arguments: list[str]) -> None:
    lookalike.address = NOBODY
    ran = await lookalike.run(*arguments)
    assert ran.code == 1
    assert ran.err == (
        f"error: no rollout service answers at {NOBODY}; start one with `lookalike up` (reason NO_ROLLOUT_SERVICE)\n"
    )


async def test_a_second_rollout_names_the_first(lookalike: Command) -> None:
    await lookalike.rollouts.start(2, Options())
    for arguments in (("rollout", "start", "3"), ("rollback",)):
        ran = await lookalike.run(*arguments)
        assert ran.code == 1
        assert ran.err == "error: rollouts/r1 is running: one rollout at a time (reason ROLLOUT_RUNNING)\n"


async def test_a_watch_prints_each_change_once_and_ends_with_the_rollout(lookalike: Command) -> None:
    process = await lookalike.begin("rollout", "start", "2", "--watch")
    lines = await _until_line(process, "verify")
    await lookalike.rollouts.becomes(stage=Stage.DRAIN, status=Status.WAITING, message="ready to switch")
    lines += await _until_line(process, "drain: waiting")
    await lookalike.rollouts.becomes(stage=Stage.RETENTION, status=Status.SUCCEEDED, message="")
    ran = await lookalike.end(process)
    assert ran.code == 0
    assert lines == ["models/1 > models/2  running  rollouts/r1", "verify", "drain: waiting: ready to switch"]
    assert ran.out.splitlines()[0] == "retention: succeeded"
    assert "✓  switch" in ran.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": Status.FAILED, "reason": "GATE_FAILED", "message": "worse"}, "worse (reason GATE_FAILED)"),
        ({"status": Status.CANCELLED, "message": "cancelled by an operator"}, "cancelled by an operator"),
    ],
)
async def test_a_watch_of_what_fails_ends_with_1(lookalike: Command, changes: dict[str, object], said: str) -> None:
    process = await lookalike.begin("rollout", "start", "2", "--validate-only")
    await _until_line(process, "verify")
    await lookalike.rollouts.becomes(**changes)
    ran = await lookalike.end(process)
    assert ran.code == 1
    assert said in ran.out
    # who only looks has not failed
    shown = await lookalike.run("rollout", "status")
    assert shown.code == 0
    assert said in shown.out
    assert (await lookalike.run("rollout", "status", "--watch")).code == 1


async def test_json_is_all_that_is_on_stdout(lookalike: Command) -> None:
    process = await lookalike.begin("rollout", "start", "2", "--watch", "--json")
    await lookalike.until(lambda: lookalike.rollouts.records)
    await lookalike.rollouts.becomes(stage=Stage.RETENTION, status=Status.SUCCEEDED)
    ran = await lookalike.end(process)
    assert (ran.code, json.loads(ran.out)["stage"]) == (0, "ROLLOUT_STAGE_RETENTION")
    assert "retention: succeeded" in ran.err
    assert json.loads((await lookalike.run("rollout", "status", "--json")).out) == json.loads(ran.out)


async def test_ctrl_c_lets_the_rollout_go_on(lookalike: Command) -> None:
    process = await lookalike.begin("rollout", "start", "2", "--watch")
    await _until_line(process, "verify")
    process.send_signal(signal.SIGINT)
    ran = await lookalike.end(process)
    assert ran.code == 130
    assert ran.err.startswith("the rollout goes on: lookalike rollout status --watch follows it")
    assert lookalike.rollouts.records[0].status is Status.RUNNING


async def test_a_watch_outlives_the_service(tmp_path: Path) -> None:
    rollouts = StandIn()
    await rollouts.start(2, Options())
    async with contextlib.AsyncExitStack() as first:
        address = await first.enter_async_context(served(rollouts))
        command = Command(rollouts, address, tmp_path)
        process = await command.begin("rollout", "status", "--watch")
        await _until_line(process, "verify")
    await _until_line(process, "no rollout service answers")
    async with served(rollouts, int(address.rpartition(":")[2])):
        await _until_line(process, "verify")
        await rollouts.becomes(stage=Stage.RETENTION, status=Status.SUCCEEDED)
        assert (await command.end(process)).code == 0


async def test_on_a_terminal_it_is_drawn_anew(lookalike: Command) -> None:
    await lookalike.rollouts.start(2, Options())
    master, slave = pty.openpty()
    process = await lookalike.begin("rollout", "status", "--watch", stdout=slave, stdin=slave)
    os.close(slave)
    seen = ""

    async def drawn(text: str) -> None:
        nonlocal seen
        while text not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen):
            seen += (await asyncio.to_thread(os.read, master, 65536)).decode(errors="replace")

    async with asyncio.timeout(PATIENCE_S):
        await drawn("●  verify")
        await lookalike.rollouts.becomes(stage=Stage.BACKFILL)
        await drawn("●  backfill")
        await lookalike.rollouts.becomes(status=Status.FAILED, message="no")
        await drawn("✗  backfill")
    assert (await lookalike.end(process)).code == 1
    os.close(master)


async def test_what_waits_is_promoted(lookalike: Command) -> None:
    await lookalike.rollouts.start(2, Options())
    refused = await lookalike.run("rollout", "promote")
    assert (refused.code, refused.err) == (
        1,
        "error: rollouts/r1 does not wait (reason ROLLOUT_NOT_WAITING)\n",
    )
    await lookalike.rollouts.becomes(stage=Stage.CANARY, status=Status.WAITING)
    ran = await lookalike.run("rollout", "promote")
    assert ran.code == 0
    assert "models/1 > models/2  running" in ran.out
    assert lookalike.rollouts.records[0].promoted


async def test_it_is_cancelled_and_rolled_back(lookalike: Command) -> None:
    await lookalike.rollouts.start(2, Options())
    assert await lookalike.run("rollout", "cancel") == Ran(0, "rollouts/r1 ends; models/1 serves as before\n", "")
    assert lookalike.rollouts.records[0].status is Status.CANCELLED
    ran = await lookalike.run("rollback")
    assert (ran.code, ran.out.split(":")[0]) == (0, "rollouts/r2 has begun")
    assert lookalike.rollouts.records[0].rollback


async def test_models_are_listed_as_they_are_to_the_system(lookalike: Command) -> None:
    lookalike.rollouts.made = [
        ModelInfo(3, ModelState.DAMAGED, "model.onnx is missing"),
        ModelInfo(2, ModelState.ROLLING_OUT, "", manifest(2), "products_m2", 1200, True),
        ModelInfo(1, ModelState.SERVING, "", manifest(1), "products_m1", 20_000, True),
    ]
    ran = await lookalike.run("models")
    assert (ran.code, ran.err) == (0, "")
    assert [" ".join(line.split()) for line in ran.out.splitlines()] == [
        "version state collection rows precision S D recall@1 files",
        "3 damaged damaged",
        "2 rolling out products_m2 1,200 int8 224 256 75.0% intact",
        "1 serving products_m1 20,000 int8 224 256 75.0% intact",
        "models/3: model.onnx is missing",
    ]
    listed = json.loads((await lookalike.run("models", "--json")).out)
    assert [model["state"] for model in listed] == [
        "MODEL_STATE_DAMAGED",
        "MODEL_STATE_ROLLING_OUT",
        "MODEL_STATE_SERVING",
    ]


async def test_without_a_service_the_files_are_looked_at_and_that_is_said(lookalike: Command) -> None:
    lookalike.address = NOBODY
    (lookalike.folder / "repository" / "image_encoder" / "7").mkdir(parents=True)
    ran = await lookalike.run("models", "--repository", "repository")
    assert ran.code == 0
    assert ran.err.startswith(f"no rollout service answers at {NOBODY}: what follows is what the files in repository")
    assert "7  damaged" in ran.out
    assert "manifest.json is missing" in ran.out
    empty = await lookalike.run("models", "--repository", "none")
    assert "no versions in none" in empty.out


async def test_an_error_of_the_service_is_not_taken_for_its_absence(
    lookalike: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> list[ModelInfo]:
        raise RuntimeError

    monkeypatch.setattr(lookalike.rollouts, "models", broken)
    ran = await lookalike.run("models")
    assert ran.code == 1
    assert ran.err.startswith("error: internal error")


async def test_a_version_is_retired(lookalike: Command) -> None:
    lookalike.rollouts.made = [ModelInfo(1, ModelState.RETAINED, "", manifest(1), "products_m1", 5)]
    ran = await lookalike.run("models", "retire", "1")
    assert (ran.code, lookalike.rollouts.asked) == (0, [1])
    assert ran.out == "models/1 is retired: it has no collection any more, its files stay\n"


@pytest.mark.parametrize(
    "command",
    ["models", "models retire", "rollout start", "rollout status", "rollout promote", "rollout cancel", "rollback"],
)
async def test_help_shows_an_example(lookalike: Command, command: str) -> None:
    ran = await lookalike.run(*command.split(), "--help")
    assert f"Example: lookalike {command}" in " ".join(ran.out.split())


async def _until_line(process: asyncio.subprocess.Process, start: str) -> list[str]:
    """The lines of stdout up to one that begins so."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while not lines or not lines[-1].startswith(start):
            line = (await process.stdout.readline()).decode()
            assert line, lines
            lines.append(line.rstrip())
    return lines
