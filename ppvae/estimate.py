r"""A value with its standard error: what every Monte Carlo answer of the library is."""

__all__ = ["Estimate", "log_mean_exp"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo answer, one per row or one in all.

    Arguments:
        value: The estimate, any shape; the unit is that of the quantity.
        std_error: Its Monte Carlo standard error, same shape and unit; 0 where the value is exact.
    """

    value: Tensor
    std_error: Tensor

    def __post_init__(self) -> None:
        if self.value.shape != self.std_error.shape:
            raise ValueError(
                f"expected a standard error of shape {tuple(self.value.shape)}, got "
                f"{tuple(self.std_error.shape)}"
            )

    @classmethod
    def exact(cls, value: Tensor) -> "Estimate":
        """A value without Monte Carlo error."""
        return cls(value, torch.zeros_like(value))

    @classmethod
    def of_draws(cls, draws: Tensor) -> "Estimate":
        """The mean over independent draws, `(S, *)` -> `(*,)`; whole numbers become real."""
        num = draws.shape[0]
        draws = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
        spread = draws.std(0) if num > 1 else torch.full_like(draws[0], torch.nan)
        return cls(draws.mean(0), spread / num**0.5)

    @classmethod
    def cat(cls, parts: "list[Estimate]") -> "Estimate":
        """Estimates of consecutive rows as one."""
        return cls(torch.cat([p.value for p in parts]), torch.cat([p.std_error for p in parts]))

    @classmethod
    def named(cls, name: str, tensors: Mapping[str, Tensor]) -> "Estimate":
        """The estimate whose two tensors stand among others by its name, as `to_named` put them."""
        return cls(tensors[name], tensors[f"{name} std_error"])

    def to_named(self, name: str) -> dict[str, Tensor]:
        """Its two tensors by its name, for a file that holds tensors alone."""
        return {name: self.value, f"{name} std_error": self.std_error}

    def mean(self) -> "Estimate":
        """The mean over rows, with the error of sampling the rows and the Monte Carlo error
        combined.

        The spread of the row values holds both: it is the rows' own variance plus that of the noise
        in each. For a single row only the Monte Carlo error is known.
        """
        rows = self.value.numel()
        monte_carlo = self.std_error.square().mean() / rows
        if rows == 1:
            return Estimate(self.value.mean(), monte_carlo.sqrt())
        spread = self.value.var() / rows
        return Estimate(self.value.mean(), torch.fmax(monte_carlo, spread).sqrt())

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Difference of two independent estimates; of rows, a paired difference."""
        error = (self.std_error.square() + other.std_error.square()).sqrt()
        return Estimate(self.value - other.value, error)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: int | slice | Tensor) -> "Estimate":
        return Estimate(self.value[index], self.std_error[index])

    def __str__(self) -> str:
        if self.value.numel() == 1:
            value = round(float(self.value), 3) + 0.0  # no minus before zero
            return f"{value:.3f} ± {float(self.std_error):.3f}"
        return f"Estimate({self.value.numel()} rows, mean {self.mean()})"


def log_mean_exp(values: Tensor, dim: int) -> Tensor:
    """log of the mean of exp along `dim`."""
    return values.logsumexp(dim) - math.log(values.shape[dim])
