"""Reading torch's sharded checkpoints without running anything that a stranger has put into them.

Torch keeps the index of a checkpoint (`.metadata`) and small values such as a learning rate as pickles, and a pickle
can run any code. Here the index may name only what an index is made of, and a small value must be a plain one.
"""

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from geofm_lib.distributed.manifest import CheckpointError

INDEX = "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties".split()
INDEX += ["MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"]
ALLOWED = {  # (module, name): all that torch's index is made of
    ("builtins", "set"),
    ("builtins", "list"),
    ("builtins", "dict"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # Python 3.13
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(("torch.distributed.checkpoint.metadata", name) for name in INDEX),
    *(("torch", str(each).removeprefix("torch.")) for each in vars(torch).values() if isinstance(each, torch.dtype)),
}


class Reader(dcp.FileSystemReader):
    """Torch's reader of a checkpoint's folder; CheckpointError for an index that names anything else than `ALLOWED`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index: shape and place of every tensor."""
        with self.fs.create_stream(Path(self.path) / ".metadata", "rb") as stream:
            metadata = _Unpickler(stream).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class Held(FileSystem):
    """Files that are open already, by name: they can be read though somebody has deleted them."""

    def __init__(self, streams: dict[str, BinaryIO]) -> None:
        self.streams = streams

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[Any]:
        """The open file of that name, from its start; it stays open."""
        stream = self.streams[Path(path).name]
        stream.seek(0)
        yield stream


class Planner(DefaultLoadPlanner):
    """Torch's planner; CheckpointError for a small value that is no plain one."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put one small value, such as a learning rate, into its place."""
        try:
            torch.load(value, weights_only=True)
        except pickle.UnpicklingError:
            raise CheckpointError(f"{read_item.storage_index.fqn} is no plain value, so it is not loaded") from None
        value.seek(0)
        super().load_bytes(read_item, value)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise CheckpointError(
                f"the index of this checkpoint (.metadata) names {module}.{name}, so it is not loaded"
            )
        return super().find_class(module, name)
