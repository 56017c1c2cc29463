r"""What happened during training, one record an epoch."""

__all__ = ["History", "Record"]

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ppvae.result import Result

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]


@dataclass
class History(Result):
    """What happened during training, one record an epoch.

    Attributes:
        records: Dicts with `epoch` (from 1), `loss` (nats per row, lower is better), `elbo` and
            `val_elbo` (plain ELBO, nats per row, higher is better; None without validation rows),
            `kl` (site -> nats per row) and `active_units` (site -> number of latent numbers that
            say something about the row), both on a few hundred rows of validation, else training,
            and None where they are not defined, `gradient_norm` (mean over the steps, before
            clipping), `num_clipped` (steps whose gradient was longer than its bound), `skipped`
            (steps without a finite loss), `seconds`, `rows_per_second`.
        seconds: Training time in all.
        best_epoch: The epoch whose weights are kept: the best on the validation rows, or the last.
        stopped_early: Whether `patience` ran out.
        compile: How steps were run: `off`, `replay` or `inductor`; with the reason where a capture
            was given up.
    """

    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int = 0
    stopped_early: bool = False
    compile: str = "off"

    def column(self, key: str) -> list[Any]:
        """One quantity over the epochs."""
        return [record[key] for record in self.records]

    def to_pandas(self) -> "pd.DataFrame":
        """One line an epoch, one column a quantity."""
        import pandas as pd

        return pd.DataFrame(self.records).set_index("epoch")
