"""Rows of bits, eight to a byte, which may lie in a file that is mapped into memory."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class PackedRows:
    """Rows of 0/1, eight values to a byte, of which only those asked for are unpacked.

    It offers what training needs of a tensor of codes: `len`, `device`, `to`, and `rows[numbers]`.

    Args:
        packed: uint8 (stored rows, bytes a row); the first value is a byte's highest bit.
        length: values a row.
        chosen: the numbers of the stored rows that are meant, int32; all of them where it is None.
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
        """The same rows, packed as they are, in another memory."""
        chosen = None if self.chosen is None else self.chosen.to(device)
        return PackedRows(self.packed.to(device), self.length, chosen)
