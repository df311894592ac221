"""Where engines are found, and what is said where they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.local.engines import ENGINES, MARKER, Engines, fingerprint, pinned_version
from services.local.errors import EngineMissing
from services.local.installing import TRITON_PYTHONS, _triton_python, check_platform
from services.local.milvus import EDITS, configure, fill


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_platforms_are_told_what_to_do(system: str, machine: str) -> None:
    with pytest.raises(EngineMissing, match=rf"this is {system} {machine}.*docker-compose"):
        check_platform(system, machine)
    check_platform("linux", "x86_64")


def test_an_engine_counts_only_in_its_pinned_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    engines = Engines(tmp_path)
    assert [(s.name, s.version) for s in engines.status()] == [(name, "") for name in ENGINES]
    (tmp_path / "milvus").mkdir()
    (tmp_path / "milvus" / MARKER).write_text("what was pinned a year ago")
    assert not engines.is_current("milvus")
    (tmp_path / "milvus" / MARKER).write_text(fingerprint("milvus"))
    assert engines.is_current("milvus")
    assert engines.status()[1].version == pinned_version("milvus")
    for missing in (engines.triton, engines.redis):
        with pytest.raises(EngineMissing, match="lookalike engines install"):
            missing()


@pytest.mark.parametrize(("version", "accepted"), [("6.0.16", False), ("6.2.0", True), ("7.2.4", True)])
def test_the_machines_own_redis_is_taken_when_it_is_recent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, accepted: bool
) -> None:
    server = tmp_path / "redis-server"
    server.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    status = Engines(tmp_path / "engines").status()[2]
    assert status.version == (version if accepted else "")
    if accepted:
        assert Engines(tmp_path / "engines").redis() == server


def test_triton_gets_a_python_for_which_numpy_1_has_wheels() -> None:
    assert _triton_python(TRITON_PYTHONS[0]) == sys.executable
    try:
        other = _triton_python((3, 14))
    except EngineMissing as error:
        assert "no wheel for Python 3.14" in error.message
        return
    answer = subprocess.run(
        [other, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    assert tuple(map(int, answer.stdout.split())) in TRITON_PYTHONS


def test_the_configuration_of_milvus_is_filled_in() -> None:
    template = "a: {{ a_port(int): 1 }}\nb: {{ b_port(int): 2 }} # {{ c }}\nd: {{ d: }}\n"
    assert fill(template, {"b_port": "7", "c": "/x"}) == "a: 1\nb: 7 # /x\nd: \n"
    with pytest.raises(KeyError):
        fill("{{ c }}", {})


def test_the_edits_fit_the_template_that_is_installed(engines: Engines) -> None:
    template = engines.milvus().template.read_text()
    holes = dict.fromkeys(("etcd_data_dir", "local_storage_dir", "rocksmq_data_dir", "system_log_path"), "/data")
    text = configure(template, holes | {"proxy_port": "12345"}, Path("/data/etcd.yaml"))
    assert "{{" not in text
    assert "etcd:\n  config:\n    path: /data/etcd.yaml\n" in text
    assert "    ttl: 10 " in text
    assert "  port: 12345\n" in text
    with pytest.raises(ValueError, match="0 lines like"):
        configure("nothing: here\n", holes, Path("/data/etcd.yaml"))
    assert len(EDITS) >= 3
