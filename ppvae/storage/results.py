r"""The file of a long measurement: what is done stays done."""

__all__ = ["ResultsFile"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ppvae.storage.files import write_bytes
from ppvae.storage.weights import read_metadata, read_tensors


class ResultsFile:
    """A file of the rows that are done; a measurement that finds one goes on where it stopped.

    Arguments:
        file: Where; written as a whole after each piece.
        settings: Settings, and a fingerprint of story, guide and rows; others are refused.
    """

    def __init__(self, file: Path | str, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = Path(file), json.dumps(dict(settings), sort_keys=True)

    def read(self) -> dict[str, Tensor]:
        """Results of the rows that are done, name -> `(b, *)`; none if there is no file.

        Raises:
            ValueError: If the file is damaged, or was written by another measurement.
        """
        if not self.file.exists():
            return {}
        try:
            settings, found = read_metadata(self.file).get("settings"), read_tensors(self.file)
        except ValueError as error:
            raise ValueError(f"expected a checkpoint, got {self.file}: {error}") from error
        if settings != self.settings:
            raise ValueError(
                f"expected {self.file} to hold results of these settings, story, guide and rows, "
                "got others; remove it to begin anew"
            )
        return found

    def write(self, results: Mapping[str, Tensor]) -> None:
        """Keep the results of the rows that are done."""
        tensors = {name: value.contiguous() for name, value in results.items()}
        write_bytes(self.file, save(tensors, {"settings": self.settings}))
