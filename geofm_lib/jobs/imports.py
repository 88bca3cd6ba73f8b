"""What a rank imports and does not use: packages that are executed only once they are asked for something.

timm needs one class of torchvision, which imports torch's compiler. Optimisers and FSDP2 ask the compiler to keep away
from their functions, which nobody compiles. Together this is most of a second of a rank's start and much of its memory.
Whoever asks one of these packages for anything else gets all of it, as if it had been imported then. So nothing is
missing where a library changes: only the second is back.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, MutableSequence
from importlib.machinery import PathFinder
from types import SimpleNamespace
from typing import Any

BY_PARTS = ("torchvision", "torchvision.ops", "torchvision.models", "timm.data")  # their modules are imported alone
COMPILER = "torch._dynamo"
KNOWN = ("__path__", "__version__", "__all__")  # other names with underscores are asked by inspection alone
_EXECUTE: dict[str, Callable[[], None]] = {}


def spare() -> None:
    """Call this before torch, timm or torchvision is imported, in a rank that compiles nothing."""
    if any(name in sys.modules for name in ("torch", "timm", *BY_PARTS)):
        return
    for name in BY_PARTS:
        _on_demand(name)
    if data := sys.modules.get("timm.data"):
        vars(data).update(_constants(data.__path__))

    import torch  # noqa: F401  else it would find its compiler while it is imported

    if COMPILER not in sys.modules:
        _on_demand(COMPILER, ASKED, parts=False)

    import timm

    if data:
        timm.data = data


def _constants(folder: MutableSequence[str]) -> dict[str, Any]:
    """Means and spreads: all that timm's models take from timm.data."""
    spec = PathFinder.find_spec("constants", folder)
    if spec is None or spec.loader is None:
        return {}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if name.isupper()}


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """`torch._dynamo.disable` and `graph_break`, where nothing is compiled."""
    return _as_it_is if function is None else function


# What torch asks of its compiler in a training without it.
ASKED = {
    "disable": _as_it_is,
    "graph_break": _as_it_is,
    "eval_frame": SimpleNamespace(OptimizedModule=()),
    "trace_rules": SimpleNamespace(clear_lru_cache=_as_it_is),
}


def _on_demand(name: str, ready: dict[str, Any] | None = None, parts: bool = True) -> None:
    """Put a package among the imported ones that has what is `ready`, and is executed when it is asked for more.

    parts: may its modules be imported without executing it?
    """
    parent = name.rpartition(".")[0]
    above = sys.modules.get(parent)
    # importlib.util.find_spec of a part would execute the package above it.
    root = above or (parent and importlib.util.module_from_spec(importlib.util.find_spec(parent)))  # type: ignore
    spec = PathFinder.find_spec(name, root.__path__) if root else importlib.util.find_spec(name)
    if spec is None or spec.loader is None or not spec.submodule_search_locations:
        return  # whoever imports it says so
    loader, where = spec.loader, list(spec.submodule_search_locations)
    package = importlib.util.module_from_spec(spec)
    inside = vars(package)

    def execute() -> None:
        if parent in _EXECUTE:
            _EXECUTE[parent]()
        if inside.pop("__getattr__", None):
            for each in ready or ():
                inside.pop(each, None)
            package.__path__ = where
            loader.exec_module(package)

    def ask(wanted: str) -> Any:
        if wanted.startswith("__") and wanted not in KNOWN:
            raise AttributeError(f"module {name!r} has no attribute {wanted!r}")
        if parts and PathFinder.find_spec(f"{name}.{wanted}", where):
            return importlib.import_module(f"{name}.{wanted}")
        execute()
        return getattr(package, wanted)

    inside.update(ready or {}, __getattr__=ask)
    if not parts:
        del package.__path__
    sys.modules[name], _EXECUTE[name] = package, execute
    if above:
        setattr(above, name.rpartition(".")[2], package)
