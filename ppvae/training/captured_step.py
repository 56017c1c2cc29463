r"""Loss and gradients of a training step as captured operators."""

__all__ = ["CapturedStep", "compile_mode"]

import torch
from torch import Tensor, nn

from ppvae.config import TrainConfig
from ppvae.data import Rows, Stream
from ppvae.objectives import Objective
from ppvae.problem.capture import Captured
from ppvae.story import TensorDict, has_missing, known_missing
from ppvae.training.distributed import world_size

MIN_STEPS = 1000  # of a training for which a capture pays


def compile_mode(config: TrainConfig, rows: Rows | Stream, num_steps: int) -> str:
    """The mode in which these steps run; streams, several processes and autocast run as they are.

    Raises:
        ValueError: If a capture is asked for that there is not.
    """
    plain = []
    if isinstance(rows, Stream):
        plain.append("rows that are streamed")
    if world_size() > 1:
        plain.append("several processes")
    if config.accumulate > 1:
        plain.append("accumulate above 1")
    if config.precision == "bfloat16":
        plain.append("precision bfloat16")
    if config.compile == "auto":
        return "off" if plain or num_steps < MIN_STEPS else "replay"
    if config.compile != "off" and plain:
        raise ValueError(f"expected compile=off or auto with {plain[0]}, got '{config.compile}'")
    return config.compile


class CapturedStep:
    """From a batch to the loss, with gradients left at the parameters.

    Arguments:
        loss_of: The objective.
        parameters: What is trained.
        mode: A key of `CAPTURE_MODES`, not `off`.
        has_warmup: Whether the weight of the KL terms changes.
    """

    def __init__(
        self, loss_of: Objective, parameters: list[nn.Parameter], mode: str, has_warmup: bool
    ) -> None:
        self.loss_of, self.parameters, self.has_warmup = loss_of, parameters, has_warmup
        self.captured = Captured(self._loss_and_gradients, [loss_of], mode)
        self.names: tuple[str, ...] = ()
        self.missing = [k for k, v in loss_of.problem.batch.items() if has_missing(v)]
        self.trained: list[nn.Parameter] = []

    @property
    def note(self) -> str:
        """Why steps run as they are; empty where they are captured."""
        return self.captured.note

    def __call__(self, batch: TensorDict, kl_weight: float) -> Tensor:
        """The loss of a batch, `()`, nats per row; gradients stand at the parameters."""
        self.names = tuple(batch)
        values = list(batch.values())
        if self.has_warmup:
            values.append(values[0].new_tensor(kl_weight))
        loss, *gradients = self.captured(*values)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _loss_and_gradients(self, *values: Tensor) -> tuple[Tensor, ...]:
        batch = dict(zip(self.names, values, strict=False))
        kl_weight: float | Tensor = values[-1] if self.has_warmup else 1.0
        with known_missing(self.missing):
            loss = self.loss_of.forward_captured(batch, kl_weight)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        used = [(p, g) for p, g in zip(self.parameters, gradients, strict=True) if g is not None]
        self.trained = [p for p, _ in used]
        return loss.detach(), *(g for _, g in used)
