"""Checks the container set-up without containers: what can be wrong before the first `docker compose up`.

The YAML parses (and is valid Compose where a checker is installed), images are pinned, every service has a health
check or runs once, what is referred to exists, only the gateway is open to other machines, and every `LOOKALIKE_`
variable is a setting that takes the value given. Exit code 1 and one line for each problem otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from pydantic import BaseModel, ValidationError

from services.common.settings import ServiceSettings
from services.gateway.settings import GatewaySettings
from services.rollout.settings import RolloutSettings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = "docker-compose.yml"
OVERRIDES = ("deploy/docker-compose.gpu.yml",)
OPEN_SERVICES = {"gateway"}
# of the services that are ours, by their names
SETTINGS: dict[str, type[ServiceSettings]] = {"gateway": GatewaySettings, "rollout": RolloutSettings}
# read by services.local, which is no service of ours and has no settings class
OTHER_VARIABLES = {"LOOKALIKE_ENGINES"}


def problems(root: Path = ROOT) -> list[str]:
    """One line for each thing that is wrong below `root`; empty when all is well."""
    found = [*_variable_problems(root), *_syntax_problems(root)]
    if found:  # what follows needs files that parse
        return found
    compose = yaml.safe_load((root / COMPOSE).read_text())
    services: dict[str, Any] = compose["services"]
    for name, service in services.items():
        checks = (
            _image_problems(service, root),
            _health_problems(service),
            _reference_problems(service, compose),
            _port_problems(service) if name not in OPEN_SERVICES else (),
            _value_problems(name, service),
        )
        found += [f"{COMPOSE}: {name}: {problem}" for check in checks for problem in check]
    used = {_source(volume) for service in services.values() for volume in service.get("volumes", ())}
    found += [f"{COMPOSE}: volume {name} is not used" for name in compose.get("volumes", {}) if name not in used]
    for override in OVERRIDES:
        added = yaml.safe_load((root / override).read_text())["services"].keys() - services.keys()
        found += [f"{override}: {COMPOSE} has no service {name}" for name in sorted(added)]
    return found


def setting_names(model: type[BaseModel], prefix: str = "LOOKALIKE_") -> Iterator[str]:
    """Every environment variable that the model reads."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_names(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def _variable_problems(root: Path) -> Iterator[str]:
    known = {name for model in SETTINGS.values() for name in setting_names(model)} | OTHER_VARIABLES
    for path in (root / COMPOSE, *sorted((root / "deploy").rglob("*"))):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            for name in sorted(set(re.findall(r"\bLOOKALIKE_\w+", path.read_text())) - known):
                yield f"{path.relative_to(root)}: {name} is not a setting"


def _syntax_problems(root: Path) -> Iterator[str]:
    for path in (COMPOSE, *OVERRIDES):
        try:
            yaml.safe_load((root / path).read_text())
        except yaml.YAMLError as error:
            yield f"{path}: {error}"
            return
    # neither checker is part of the environment; each says more than we can when it is there
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        for files in ([COMPOSE], [COMPOSE, *OVERRIDES]):
            command = [docker, "compose", *(part for file in files for part in ("-f", file)), "config", "-q"]
            yield from _run(command, root)
    if checker := shutil.which("check-jsonschema"):
        yield from _run([checker, "--builtin-schema", "vendor.compose-spec", COMPOSE, *OVERRIDES], root)


def _run(command: list[str], root: Path) -> Iterator[str]:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        yield f"{' '.join(command)}: {done.stderr or done.stdout}"


def _image_problems(service: dict[str, Any], root: Path) -> Iterator[str]:
    image = service.get("image", "")
    if not _is_pinned(image):
        yield f"image {image or '(none)'} is not pinned by a tag"
    if build := service.get("build"):
        dockerfile = root / build["context"] / build["dockerfile"]
        text = dockerfile.read_text() if dockerfile.exists() else ""
        stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
        names = {stage for _, stage in stages}
        if build["target"] not in names:
            yield f"{build['dockerfile']} has no stage {build['target']}"
        for base, _ in stages:
            if base not in names and not _is_pinned(base):
                yield f"{build['dockerfile']}: base image {base} is not pinned by a tag"
        if "\nUSER " not in text:
            yield f"{build['dockerfile']} runs as root"


def _is_pinned(image: str) -> bool:
    tag = image.rpartition("/")[2].partition(":")[2]
    return bool(tag) and not tag.startswith("latest")


def _health_problems(service: dict[str, Any]) -> Iterator[str]:
    runs_once = service.get("restart") == "no"
    if not runs_once and not service.get("healthcheck", {}).get("test"):
        yield "has no health check and does not run once"


def _reference_problems(service: dict[str, Any], compose: dict[str, Any]) -> Iterator[str]:
    for volume in service.get("volumes", ()):
        source = _source(volume)
        if not source.startswith(("/", ".")) and source not in compose.get("volumes", {}):
            yield f"volume {source} is not declared"
    for network in service.get("networks", ()):
        if network not in compose.get("networks", {}):
            yield f"network {network} is not declared"
    for name, wanted in service.get("depends_on", {}).items():
        other = compose["services"].get(name)
        if other is None:
            yield f"depends on {name}, which does not exist"
        elif wanted["condition"] == "service_healthy" and "healthcheck" not in other:
            yield f"waits for {name} to be healthy, which has no health check"
        elif wanted["condition"] == "service_completed_successfully" and other.get("restart") != "no":
            yield f"waits for {name} to end, which is restarted"


def _source(volume: str) -> str:
    return volume.partition(":")[0]


def _port_problems(service: dict[str, Any]) -> Iterator[str]:
    for port in service.get("ports", ()):
        if not str(port).startswith("127.0.0.1:"):
            yield f"port {port} is open to other machines"


def _value_problems(name: str, service: dict[str, Any]) -> Iterator[str]:
    model = SETTINGS.get(name)
    if model is None:
        return
    unknown = {key for key in service.get("environment", {}) if key.startswith("LOOKALIKE_")} - {*setting_names(model)}
    for key in sorted(unknown):
        yield f"{key} is not one of its settings"
    environment = {name: str(value) for name, value in service.get("environment", {}).items()}
    with patch.dict(os.environ, environment, clear=True):
        try:
            model()
        except ValidationError as error:
            for problem in error.errors():
                yield f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def main() -> int:
    found = problems()
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print("the container set-up is consistent")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
