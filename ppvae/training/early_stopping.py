r"""The weights of the best epoch, and the end of a training that no longer gets better."""

__all__ = ["EarlyStopping"]

from typing import Any

from torch import Tensor

from ppvae.training.callbacks import Callback
from ppvae.training.history import History, Record
from ppvae.training.trainer import Trainer


class EarlyStopping(Callback):
    """Keep the weights with the best validation ELBO; without validation rows the last ones.

    Arguments:
        patience: Stop after so many epochs without a better one; None never stops.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience
        self.best_elbo = -float("inf")
        self.best_weights: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_validation_end(self, record: Record) -> None:
        if record["val_elbo"] is None:
            self.trainer.history.best_epoch = record["epoch"]
        elif record["val_elbo"] > self.best_elbo:
            self.best_elbo, self.trainer.history.best_epoch = record["val_elbo"], record["epoch"]
            weights = self.trainer.loss_of.state_dict()
            self.best_weights = {k: v.detach().clone() for k, v in weights.items()}

    def on_epoch_end(self, record: Record) -> None:
        self._check_patience()

    def on_train_end(self, history: History) -> None:
        if self.best_weights is not None:
            self.trainer.loss_of.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best_elbo": self.best_elbo, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_elbo, self.best_weights = state["best_elbo"], state["best_weights"]
        self._check_patience()

    def _check_patience(self) -> None:
        history = self.trainer.history
        waited = len(history.records) - history.best_epoch
        history.stopped_early = self.patience is not None and waited >= self.patience
