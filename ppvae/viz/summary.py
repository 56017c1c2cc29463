r"""What a league table shows, in sentences: who loses least, whose fault it is, what to
distrust."""

__all__ = ["cautions", "certificates", "headline", "loses_most_to", "nats"]

from ppvae.estimate import Estimate
from ppvae.inference import Sandwich
from ppvae.league import League, LeagueRow

SURE = 2.0  # standard errors that a difference must span before a sentence claims it


def nats(estimate: Estimate) -> str:
    """An estimate with its standard error: two decimals, or as many as the error needs, at most
    four."""
    value, error = float(estimate.value), float(estimate.std_error)
    digits = next((d for d in (2, 3) if not 0 < error < 0.95 * 10.0**-d), 4)
    return f"{_signed(value, digits)} ± {error:.{digits}f}"


def headline(league: League) -> list[str]:
    """The result in one to three sentences."""
    ranked = sorted(league.rows, key=lambda row: float(row.inference_gap.value))
    best = ranked[0]
    if len(ranked) == 1:
        return [f"{best.name} loses {nats(best.inference_gap)} nats per row.", _explain(best)]
    second = ranked[1]
    lead = (league.gaps[second.name].inference_gap - league.gaps[best.name].inference_gap).mean()
    if _is_sure(lead):
        first = (
            f"{best.name} loses least: {nats(best.inference_gap)} nats per row, where "
            f"{second.name} loses {nats(second.inference_gap)}; the difference is {nats(lead)}, "
            "paired over the rows."
        )
    else:
        first = (
            f"{best.name} and {second.name} cannot be told apart on these rows: they lose "
            f"{nats(best.inference_gap)} and {nats(second.inference_gap)} nats per row."
        )
    return [first, *_higher_elbo(league, best), _explain(best)]


def loses_most_to(row: LeagueRow) -> str:
    """What a guide loses most to: `family`, `encoder`, `both`, or `nothing seen`."""
    if not _is_sure(row.inference_gap):
        return "nothing seen"
    difference = row.approximation_gap - row.amortization_gap
    if not _is_sure(difference):
        return "both"
    return "family" if float(difference.value) > 0 else "encoder"


def cautions(league: League) -> list[str]:
    """What a reader must know before trusting the table."""
    found = [_about_evidence(league), *_about_annealing(league), *_about_khat(league)]
    for row in league.rows:
        if not league.gaps[row.name].local_converged:
            found.append(
                f"{row.name}: the search for q* stopped before it had converged on all rows, so "
                "its approximation gap is too large, and its amortization gap too small, by as "
                "much as was left."
            )
        for name in ("approximation_gap", "amortization_gap"):
            gap: Estimate = getattr(row, name)
            if float(gap.value) < 0 and _is_sure(gap):
                found.append(
                    f"{row.name}: the {name.replace('_', ' ')} came out below zero by more than "
                    f"{SURE:.0f} standard errors, which no gap is: the estimate of log p(x) or of "
                    "L[q*] falls short."
                )
    return found


def certificates(league: League) -> list[str]:
    """How far annealing can be off, measured on simulated rows; one line a story."""
    widths = {
        name: _certificate(g.certificate)
        for name, g in league.gaps.items()
        if g.certificate is not None
    }
    if league.decoder == "shared":
        return list(widths.values())[:1]
    return [f"{name}: {text}" for name, text in widths.items()]


def _certificate(certificate: Sandwich) -> str:
    width = f"{certificate.width.mean()} nats"
    rows = f"BDMC, {len(certificate.lower)} rows"
    if certificate.converged:
        return f"annealing certified to {width} ({rows})"
    verdict, _, _ = certificate.verdict.partition(":")
    return (
        f"annealing {verdict}: bounds on log p(x) lie {width} apart ({rows}), and log p̂(x) and "
        "the gaps may be too small by as much"
    )


def _about_khat(league: League) -> list[str]:
    shares = [f"{row.name} {row.khat_share:.0%}" for row in league.rows if row.khat_share > 0]
    blind = (
        "k-hat sees tails that are too thin; a guide that lost a whole mode of the posterior can "
        "look perfect to it."
    )
    if not shares:
        return [f"k-hat is below {league.khat_threshold:.2f} on all rows. {blind}"]
    return [
        f"k-hat is above {league.khat_threshold:.2f} on a share of the rows "
        f"({', '.join(shares)}): importance weights are not to be trusted there. {blind}"
    ]


def _about_evidence(league: League) -> str:
    methods = sorted({row.evidence_method for row in league.rows})
    if methods == ["exact"]:
        return "log p(x) is exact: the story knows its closed form."
    return (
        f"log p̂(x) is a lower bound ({', '.join(methods)}): the true approximation and inference "
        "gaps are larger by whatever it misses."
    )


def _about_annealing(league: League) -> list[str]:
    return [
        f"{text[:1].upper()}{text[1:]}. These rows are the story's own; real ones can be harder."
        for text in certificates(league)
    ]


def _higher_elbo(league: League, best: LeagueRow) -> list[str]:
    """With a story each, a guide may lose more and still reach the higher bound."""
    top = max(league.rows, key=lambda row: float(row.elbo.value))
    if league.decoder == "shared" or top.name == best.name:
        return []
    lead = (league.gaps[top.name].elbo - league.gaps[best.name].elbo).mean()
    if not _is_sure(lead):
        return []
    return [f"{top.name} has the higher ELBO, by {nats(lead)}: its own story came out better."]


def _explain(row: LeagueRow) -> str:
    approximation, amortization = nats(row.approximation_gap), nats(row.amortization_gap)
    return {
        "family": f"Most of what {row.name} loses, {approximation}, is its family's: a larger "
        "family would win it back.",
        "encoder": f"Most of what {row.name} loses, {amortization}, is its encoder's: the same "
        "family fitted to each row by itself would win it back.",
        "both": f"{row.name} loses to its family ({approximation}) and to its encoder "
        f"({amortization}) alike.",
        "nothing seen": f"What {row.name} loses is no more than the error of the measurement.",
    }[loses_most_to(row)]


def _is_sure(difference: Estimate) -> bool:
    return abs(float(difference.value)) > SURE * float(difference.std_error)


def _signed(value: float, digits: int) -> str:
    # a true minus sign is as wide as a digit
    text = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")
