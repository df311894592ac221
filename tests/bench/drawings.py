"""What encoders find that were trained on something else: recall of the demo's drawings, and the time an image takes.

    python -m tests.bench.drawings recipes/grocery-encoder.onnx [MORE.onnx ...]

Queries are 300 altered drawings, the gallery 600 of the demo's catalogue. The standard error of recall@1 is at most 2.9
points. All encoders take turns at the clock, in batches of 8 on all cores; the machine's other work slows all alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from services.cli.evaluation_pictures import demo_pictures
from services.evaluation.inference import embed, milliseconds_per_image, open_encoder, open_session
from services.evaluation.metrics import recall_at_k

KS = (1, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+", type=Path)
    files = parser.parse_args().encoders
    sides = {open_encoder(file).side for file in files}
    if len(sides) > 1:
        parser.error(f"the encoders are to want pictures of one size, not {sorted(sides)}")
    pictures, sessions = demo_pictures(sides.pop()), [open_session(file) for file in files]
    times = milliseconds_per_image(sessions, pictures.query_pixels)
    for file, session, ms in zip(files, sessions, times, strict=True):
        queries, gallery = embed(session, pictures.query_pixels), embed(session, pictures.gallery_pixels)
        recall = recall_at_k(queries, pictures.query_ids, gallery, pictures.gallery_ids, KS)
        found = ", ".join(f"recall@{k} {100 * value:.1f} %" for k, value in recall.items())
        print(f"{file}: {found}, {ms:.1f} ms an image, {file.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
