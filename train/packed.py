"""Rows of bits, eight to a byte, possibly in a memory-mapped file."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class PackedRows:
    """Rows of 0/1, packed eight values to a byte and unpacked when they are indexed.

    It offers what training needs of a tensor of codes: `len`, `device`, `to`, and `rows[numbers]`.

    Args:
        packed: uint8 (stored rows, bytes per row); the first value is a byte's highest bit.
        length: values per row.
        chosen: the numbers of the stored rows that belong to this set, int32; None for all of them.
    """

    def __init__(self, packed: Tensor, length: int, chosen: Tensor | None = None) -> None:
        self.packed, self.length, self.chosen = packed, length, chosen
        self.shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)

    def __len__(self) -> int:
        return len(self.packed if self.chosen is None else self.chosen)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """Unpacked rows, uint8 (rows, length)."""
        packed = self.packed[numbers if self.chosen is None else self.chosen[numbers].long()]
        return ((packed[:, :, None] >> self.shifts) & 1).flatten(1)[:, : self.length]

    @property
    def device(self) -> torch.device:
        return self.packed.device

    def part(self, numbers: npt.NDArray[np.integer]) -> "PackedRows":
        """Only these of the stored rows."""
        return PackedRows(self.packed, self.length, torch.as_tensor(numbers.astype(np.int32, copy=False)))

    def to(self, device: torch.device | str) -> "PackedRows":
        """The same rows, still packed, on another device."""
        chosen = None if self.chosen is None else self.chosen.to(device)
        return PackedRows(self.packed.to(device), self.length, chosen)
