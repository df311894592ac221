"""The file that says what was not imported: line, product, reason."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from services.cli.entries import Reject


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """CSV when the name ends in .csv, else one JSON object a line. Without rejects, an old file is removed."""
    if not rejects:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        if path.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, [field.name for field in fields(Reject)])
            writer.writeheader()
            writer.writerows(asdict(reject) for reject in rejects)
        else:
            file.writelines(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects)
