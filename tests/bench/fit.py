"""How a picture becomes S x S: recall of each way on the Grocery Store Dataset, with FP32 encoder version 1.

    python -m tests.bench.fit ../shared/data/grocery

Queries are the 296 validation photographs. Galleries: the 2,640 training photographs (fine class, and coarse class),
and the 81 iconic images, which the training photographs ask for too, because 296 queries alone decide little: the
standard error of their recall is 2.9 points. About 2 minutes for each way on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from services.common.images import Fit, decode_image
from services.common.products import Region
from services.evaluation.inference import embed, open_session
from services.evaluation.metrics import Vectors, recall_at_k
from services.export import bundled

# what ImageNet networks are evaluated with: the short side to 256, the middle 224
MIDDLE = Region(1 / 16, 1 / 16, 15 / 16, 15 / 16)


@dataclass(frozen=True)
class Photographs:
    paths: list[Path]
    fine: list[str]
    coarse: list[str]


def read_split(folder: Path, split: str) -> Photographs:
    lines = (folder / f"{split}.txt").read_text().splitlines()
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    return Photographs([folder / row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def read_iconic(folder: Path) -> Photographs:
    with (folder / "classes.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return Photographs(
        [folder / row[4].lstrip("/") for row in rows], [row[1] for row in rows], [row[3] for row in rows]
    )


def measure(session: onnxruntime.InferenceSession, folder: Path, fit: Fit, region: Region | None) -> list[float]:
    """Recall@1 of: fine class, coarse class, iconic by validation, iconic by all photographs."""

    def vectors(photographs: Photographs) -> Vectors:
        def decode(path: Path) -> np.ndarray:
            return decode_image(path.read_bytes(), bundled.SIDE, region, fit)

        with ThreadPoolExecutor() as pool:
            return embed(session, np.stack(list(pool.map(decode, photographs.paths))))

    train, val, iconic = read_split(folder, "train"), read_split(folder, "val"), read_iconic(folder)
    gallery, queries, icons = vectors(train), vectors(val), vectors(iconic)
    return [
        recall_at_k(queries, val.fine, gallery, train.fine, (1,))[1],
        recall_at_k(queries, val.coarse, gallery, train.coarse, (1,))[1],
        recall_at_k(queries, val.fine, icons, iconic.fine, (1,))[1],
        recall_at_k(np.concatenate([queries, gallery]), val.fine + train.fine, icons, iconic.fine, (1,))[1],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the Grocery Store Dataset")
    args = parser.parse_args()
    session = open_session(bundled.build().SerializeToString())
    print("| way | fine class | coarse class | iconic image | iconic image, all photographs |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for name, region in (("whole picture", None), ("middle 7/8", MIDDLE)):
        for fit in Fit:
            recalls = measure(session, args.data, fit, region)
            print(f"| {fit}, {name} | " + " | ".join(f"{recall:.1%}" for recall in recalls) + " |", flush=True)


if __name__ == "__main__":
    main()
