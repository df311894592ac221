"""The model's configuration as a LoadModel call carries it: config.pbtxt, with the versions to serve named.

What was found out about Triton 2.51 under explicit control; it is in the core, so NVIDIA's container does the same:

- A LoadModel in which one version can't be loaded fails with the reason, and the versions that served before go on
  without a failed call. A version folder that is merely there counts when the policy is `all`, so that one damaged
  folder makes every plain LoadModel fail. With the versions named, folders that nobody named are not looked at.
- **At the start it is otherwise**: when one version of a model given by `--load-model` can't be loaded, Triton unloads
  the good ones too, and exits. So it is started with `--exit-on-error=false`, and whoever needs a version asks for it
  by number: `Encoder.load`, `KeptLoaded`.
- A version that is not named any more finishes the calls it has taken, and goes; the others answer on. A name without
  a folder is passed over in silence, unless no other is left.
- A version that serves is loaded again only when its file has changed since. When that file is damaged, the call fails
  and names it, and what was loaded before goes on answering.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

CONFIG_FILE = "config.pbtxt"


def config_of(models: Path, versions: Collection[int]) -> str:
    """The configuration as JSON, with exactly these versions to be served. Raises OSError, text_format.ParseError."""
    config = text_format.Parse((models / CONFIG_FILE).read_text(), model_config_pb2.ModelConfig())
    config.version_policy.Clear()
    config.version_policy.specific.versions.extend(sorted(versions))
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))
