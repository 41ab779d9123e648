"""Reading pickles of data sets without running what they may carry.

A pickle can call anything that its reader lets it name. Here it may name only the constructors of NumPy
arrays and, where asked for, of pandas frames; numbers, strings, lists, tuples and dicts need no name.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from apportion.router.errors import OutcomesTableError

ARRAYS = frozenset(
    (module, name)
    for module, names in {
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "numpy.core.numeric": ("_frombuffer",),
        "numpy._core.numeric": ("_frombuffer",),
        "_codecs": ("encode",),
    }.items()
    for name in names
)
FRAMES = ARRAYS | frozenset(
    (module, name)
    for module, names in {
        "builtins": ("slice",),
        "pandas": ("DataFrame", "Index", "RangeIndex"),
        "pandas.core.frame": ("DataFrame",),
        "pandas.core.internals.managers": ("BlockManager",),
        "pandas.core.internals.blocks": ("new_block",),
        "pandas._libs.internals": ("_unpickle_block",),
        "pandas.core.indexes.base": ("Index", "_new_Index"),
        "pandas.core.indexes.range": ("RangeIndex",),
    }.items()
    for name in names
)


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, allowed: frozenset[tuple[str, str]]) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data has no need of")
        return super().find_class(module, name)


def read_pickle(file: Path, allowed: frozenset[tuple[str, str]] = ARRAYS) -> Any:
    """What the pickle holds; raises OutcomesTableError when it is broken or names anything that is not
    allowed.
    """
    try:
        return _Reader(file.read_bytes(), allowed).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError) as error:
        raise OutcomesTableError(
            f"{file.name} is refused: {error}; take the data set's original file, or convert it to parquet"
        ) from error
