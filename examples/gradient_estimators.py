r"""How much does reparametrisation gain over the score function? The same gradient by seven
estimators, on digits.

The story and its guide are trained a little, then every estimator draws gradients of the same bound
at the same parameters. `steps for one` says how many draws of the estimator, averaged, are as clear
as one draw along the path (`trace_elbo`).
"""

import torch

import ppvae
from ppvae import objectives

SEED, EPOCHS, ROWS, REPEATS = 0, 10, 100, 300
PLAIN = "trace_elbo"


def main(epochs: int = EPOCHS, repeats: int = REPEATS) -> ppvae.EstimatorBench:
    """Train, and compare the gradients of the ELBO with one particle."""
    train, test = (ppvae.data.load("digits", split=split) for split in ("train", "test"))
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", train.batch())
    guide = ppvae.guides.build("mean_field", story, train)
    ppvae.fit(story, guide, train, epochs=epochs, seed=SEED, progress=False)
    rows = test.head(ROWS)
    named: dict[str, str | objectives.Objective] = {
        f"score function, {baseline}": objectives.build(
            "score_function", story, guide, rows, baseline=baseline
        )
        for baseline in objectives.BASELINES
    }
    named |= {name: name for name in (PLAIN, "mean_field_elbo", "stl", "wake_sleep")}
    return ppvae.estimator_bench(
        story, guide, rows, named, num_particles=1, num_repeats=repeats, seed=SEED, progress=False
    )


def table(bench: ppvae.EstimatorBench, group: str = "heads") -> str:
    """One line an estimator, for one group of the guide's parameters."""
    lines = [
        f"{'estimator of ' + group:<28}  bias (by noise)  variance      SNR  steps for one     ms"
    ]
    clear = bench.row(PLAIN, group).variance
    for name in dict.fromkeys(row.objective for row in bench.rows):
        r = bench.row(name, group)
        lines.append(
            f"{name:<28}  {r.bias:5.2f}  ({r.bias_floor:5.2f})  {r.variance:8.3g}  {r.snr:7.3f}  "
            f"{r.variance / clear:13.2g}  {r.milliseconds:5.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        f"digits, {ROWS} test rows, {REPEATS} gradients each, seed {SEED}, torch "
        f"{torch.__version__}"
    )
    print(table(main()))
