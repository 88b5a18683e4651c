"""A ``.npy`` file that grows row by row: for an array larger than memory, whose length is not known beforehand."""

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np


class GrowingArray:
    """Write rows of ``width`` entries; leaving the ``with`` block writes their number into the header."""

    def __init__(self, path: Path, *, width: int, dtype: np.dtype) -> None:
        self.rows = 0
        self._width, self._dtype = width, dtype
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._write_header()

    @property
    def sha256(self) -> str:
        """Hex digest of the rows' bytes, without the header."""
        return self._digest.hexdigest()

    def append(self, rows: np.ndarray) -> None:
        """Add ``rows`` [rows, width]."""
        data = np.ascontiguousarray(rows, dtype=self._dtype)
        self._file.write(data.data)
        self._digest.update(data.data)
        self.rows += len(data)

    def __enter__(self) -> "GrowingArray":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for any number of rows, for just this use.
        shape = (self.rows, self._width)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
