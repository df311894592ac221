"""What a run trains on and what it watches, from its recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric

from services.common.images import PREPROCESSING
from services.evaluation.inference import Pixels, decode_photographs, embed_photographs
from services.evaluation.metrics import Vectors
from services.photographs.dataset import DataSet, read_data_set, read_unlabelled
from services.photographs.photograph import Photograph, Splits
from services.trainer.events import EventLog
from services.trainer.learning.compatible import Older, prototypes_of
from services.trainer.learning.fit import TrainingSet
from services.trainer.learning.measuring import asked_protocols
from services.trainer.learning.pixels import decoded, fingerprint
from services.trainer.learning.validation import Validation
from services.trainer.recipe import Recipe, Source
from services.trainer.runs import Run

# training pictures are kept a little larger than S, so that a crop of them is still sharp
CANVAS = 8 / 7
# beside the runs: a catalogue's originals, which the next run does not fetch again
ORIGINALS = ".originals"

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Data:
    """Args:
    photographs: those that are trained on, in the order of `train`.
    products: ids; a label is a place in them.
    """

    found: DataSet
    photographs: Sequence[Photograph]
    products: Sequence[str]
    train: TrainingSet


class DataReader:
    def __init__(self, run: Run, recipe: Recipe, fabric: Fabric, log: EventLog) -> None:
        self._run, self._recipe, self._fabric, self._log = run, recipe, fabric, log

    def read(self, warn: Warn) -> Data:
        """Reads, checks, splits and decodes. Raises InvalidArgument as `read_data_set`, and what a catalogue raises."""
        recipe = self._recipe.data
        self._log.emit("stage", stage="data", message=f"reading {recipe.path or recipe.address}")
        with self._fabric.rank_zero_first():
            found = read_data_set(
                recipe.source.value,
                path=recipe.path,
                address=recipe.address,
                image_store=recipe.image_store,
                cache=self._run.folder.parent / ORIGINALS if recipe.source is Source.CATALOGUE else None,
                split=recipe.split,
                validation_share=recipe.validation_share,
                test_share=recipe.test_share,
                seed=self._recipe.seed,
                products=recipe.products,
                images_per_product=recipe.images_per_product,
            )
            once = [p for p in found.splits.train if p.product]
            # one clean picture among dozens of photographs would hardly be noticed
            photographs = [*once, *(p for p in once if p.catalogue for _ in range(recipe.catalogue_repeats - 1))]
        pixels = self.canvases(photographs)
        for file in found.broken:
            warn(f"{file.path} is passed over: {file.reason}")
        products = sorted({p.product for p in once})
        label = {product: number for number, product in enumerate(products)}
        message = f"{len(once)} photographs of {len(products)} products to train on"
        self._log.emit("stage", stage="data", message=f"{message}, {len(found.splits.validation)} to validate with")
        return Data(found, photographs, products, TrainingSet(pixels, [label[p.product] for p in photographs]))

    def unlabelled(self, warn: Warn) -> Sequence[Photograph]:
        photographs, broken = read_unlabelled(Path(self._recipe.data.unlabelled))
        for file in broken:
            warn(f"{file.path} is passed over: {file.reason}")
        return photographs

    def canvases(self, photographs: Sequence[Photograph]) -> Pixels:
        """uint8 [n, side, side, 3], a little larger than the largest S, from the run's folder when it has them."""
        side = round(max((self._recipe.model.side, *self._recipe.optimiser.sides)) * CANVAS)
        with self._fabric.rank_zero_first():  # one process writes the file
            return decoded(photographs, side, self._run.folder / "pixels")

    def spread(self, data: Data, most: int) -> Pixels:
        """uint8 [n, S, S, 3]: at most so many training pictures, evenly spread."""
        count = len(data.photographs)
        places = np.linspace(0, count - 1, min(most, count)).round().astype(int)
        return decode_photographs([data.photographs[place] for place in places], self._recipe.model.side)

    def prototypes(self, data: Data, older: Older) -> Vectors:
        """float32 [products, D]: what the older version sees in each product's training pictures, on average."""
        # a catalogue picture may be there several times, to be trained on more often
        label = dict(zip(data.photographs, data.train.labels, strict=True))
        photographs = list(label)
        name = fingerprint(photographs, f"{PREPROCESSING} {older.sha256}")
        file = self._run.folder / "older" / f"{name}.npy"
        with self._fabric.rank_zero_first():  # one process embeds them
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                unfinished = file.with_suffix(".part.npy")
                np.save(unfinished, embed_photographs(photographs, older.encoder.side, older.encoder))
                unfinished.replace(file)
        return prototypes_of(np.load(file), list(label.values()))

    def validation(self, data: Data) -> Validation:
        """The validation photographs in some training photographs of each product."""
        side, splits = self._recipe.model.side, data.found.splits
        main = asked_protocols(Splits(splits.train, splits.validation))[0]
        queries, query_ids = decode_photographs(main.queries, side), tuple(main.query_ids)
        if main.leave_one_out:
            return Validation(queries, query_ids, None, ())
        most = self._recipe.validation.gallery_per_product
        taken: dict[str, list[Photograph]] = {}
        for photograph in main.gallery:
            taken.setdefault(photograph.product, []).append(photograph)
        # evenly spread, as neighbours in a series look alike
        gallery = [
            series[int(place)]
            for series in taken.values()
            for place in np.linspace(0, len(series) - 1, min(most, len(series))).round()
        ]
        return Validation(queries, query_ids, decode_photographs(gallery, side), tuple(p.product for p in gallery))
