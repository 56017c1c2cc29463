r"""On which rows is the posterior wrong: one diagnostic a file."""

from ppvae.diagnostics.khat import (
    effective_sample_size,
    khat,
    khat_threshold,
    smooth_log_weights,
)

__all__ = ["effective_sample_size", "khat", "khat_threshold", "smooth_log_weights"]
