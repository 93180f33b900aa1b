"""What an audit says: paired differences from the answers as they are, verdicts, statistics of gates, the table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.evaluation.report import compare, percent, scene_notes, span, summarise
from vega3d.evaluation.result_files import scene_name
from vega3d.evaluation.run import scored
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.statistics import FEW_SCENES, Difference, Interval, mean_intervals
from vega3d.tables import aligned

FORMAT = "vega3d-audit-1"
QUANTILES = (5, 25, 50, 75, 95)  # [%]
FLAT = 0.02  # between the 5 and 95 % quantiles of gates, below which they are called one number
AVERAGES = ("macro", "micro")
ANSWER = ("answer", "parsed", "option_probabilities", "scores")  # of a question, under each condition


@dataclass(frozen=True)
class Condition:
    """What a model is given in place of its own inputs.

    Attributes:
        name: its key in the result.
        what: the model's view under it, in a sentence.
        of_generator: whether the generative stream alone is changed.
    """

    name: str
    what: str
    of_generator: bool = True


CONDITIONS = (
    Condition("as it is", "Both streams of the clip."),
    Condition("noise", "Gaussian noise in place of the generator's features, with the moments of each channel."),
    Condition("other clip", "The generator's features of another scene: real ones, but not of what is asked about."),
    Condition("without", "No generative stream: the VLM's own visual tokens alone."),
    Condition("shuffled features", "The generator's features in another order of time."),
    Condition("shuffled frames", "Both streams see the frames in another order of time.", of_generator=False),
    Condition("repeated frame", "Both streams see the middle frame again and again.", of_generator=False),
    Condition("blind", "Both streams see grey frames.", of_generator=False),
)
AS_IT_IS = CONDITIONS[0].name


def token_statistics(values: np.ndarray) -> dict:
    """Mean, standard deviation and `QUANTILES` of a number for each token of a scene, float[n]."""
    quantiles = np.quantile(values, np.array(QUANTILES) / 100)
    named = {str(name): float(value) for name, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(values.mean()), "sd": float(values.std()), "quantiles": named}


def over_scenes(statistics: Sequence[Mapping]) -> dict:
    """Means of the `token_statistics` of scenes, the spread of their means, and the range of their quantiles."""
    quantiles = {key: np.array([one["quantiles"][key] for one in statistics]) for key in statistics[0]["quantiles"]}
    return {
        "mean": float(np.mean([one["mean"] for one in statistics])),
        "sd_over_tokens": float(np.mean([one["sd"] for one in statistics])),
        "sd_over_clips": float(np.std([one["mean"] for one in statistics])),
        "quantiles": {key: float(values.mean()) for key, values in quantiles.items()},
        "lowest": float(quantiles[str(QUANTILES[0])].min()),
        "highest": float(quantiles[str(QUANTILES[-1])].max()),
    }


def summarise_audit(
    header: Mapping, records: Sequence[AnnotatedQuestion], parts: Mapping[str, Mapping], resamples: int
) -> dict:
    """The values of `audit.json`, of what each scene gave (`audit.Auditor.part`)."""
    seed = header["seed"]
    results = {
        condition.name: [
            scored(record, tuple(parts[f"{record.dataset}/{record.scene}"]["answers"][condition.name][record.id]))
            for record in records
        ]
        for condition in CONDITIONS
    }
    as_it_is = results[AS_IT_IS]
    conditions = {}
    for condition in CONDITIONS:
        asked = results[condition.name]
        sides = {"as it is": {"questions": as_it_is}}, {condition.name: {"questions": asked}}
        differences = compare(*sides, "official", resamples, seed)
        changed, moved = answer_changes(as_it_is, asked, resamples, seed)
        changes = np.array([[part["token_change"][condition.name]] for part in parts.values()])
        [tokens] = mean_intervals(list(parts), changes, resamples, seed)
        conditions[condition.name] = {
            "what": condition.what,
            "of_generator": condition.of_generator,
            **summarise(asked, resamples, seed)["official"],
            "differences": {name: asdict(difference) for name, difference in differences.items()},
            "changed_answers": asdict(changed),
            "moved_probability": asdict(moved),
            "token_change": asdict(tokens),
            **verdict(condition, main_difference(differences), is_same=not changes.any() and changed.score == 0),
        }
    gates = [part["gate"] for part in parts.values() if part["gate"] is not None]
    return {
        **header,
        "resamples": resamples,
        "headline": headline(header["settings"]["name"], conditions),
        "conditions": conditions,
        "fusion_change": over_scenes([part["fusion_change"] for part in parts.values()]),
        "gate": over_scenes(gates) if gates else None,
        "questions": [
            {name: value for name, value in question.items() if name not in ANSWER}
            | {"answers": {name: {key: asked[place][key] for key in ANSWER} for name, asked in results.items()}}
            for place, question in enumerate(as_it_is)
        ],
        "seconds": round(sum(part["seconds"] for part in parts.values()), 3),
    }


def answer_changes(
    before: Sequence[Mapping], after: Sequence[Mapping], resamples: int, seed: int
) -> tuple[Interval, Interval]:
    """Share of parsed answers that differ, and of the options' probability that moved (total variation); by scene."""
    values = np.full((len(before), 2), np.nan)
    for place, (first, second) in enumerate(zip(before, after, strict=True)):
        values[place, 0] = first["parsed"]["official"] != second["parsed"]["official"]
        ours, theirs = first["option_probabilities"], second["option_probabilities"]
        if ours is not None and theirs is not None:
            values[place, 1] = sum(abs(ours[letter] - theirs[letter]) for letter in ours) / 2
    changed, moved = mean_intervals([scene_name(question) for question in before], values, resamples, seed)
    return changed, moved


def main_average(names: Mapping) -> str:
    """The score that decides: the macro average, or where no category of it is asked the first there is."""
    return "macro" if "macro" in names else next(iter(names))


def main_difference(differences: Mapping[str, Difference]) -> Difference:
    return differences[main_average(differences)]


def verdict(condition: Condition, difference: Difference, is_same: bool) -> dict[str, str]:
    """`verdict`, a few words, and `reason`, a sentence with the numbers.

    Args:
        condition: under which the second side of the difference answered.
        difference: of the score that decides.
        is_same: whether all visual tokens and answers are those of the first side.
    """
    interval = difference.interval
    scenes = f"{difference.scenes} scene{'' if difference.scenes == 1 else 's'}"
    subject = "the generator" if condition.of_generator else "the video"
    if condition.name == AS_IT_IS:
        return {"verdict": "-", "reason": "What the others are compared with."}
    if is_same:
        return {"verdict": "no difference at all", "reason": "Every visual token and every answer is the same."}
    change = f"{100 * (interval.score or 0):+.1f} points"
    if interval.low is None or interval.high is None or difference.scenes < FEW_SCENES:
        few = f"{change} on {scenes}, too few to say more: {FEW_SCENES} are needed."
        return {"verdict": "too few scenes", "reason": few}
    found = f"{change} {span(interval.low, interval.high)} on {scenes}"
    if interval.low <= 0 <= interval.high:
        most = 100 * max(-interval.low, interval.high)
        return {"verdict": "no measurable difference", "reason": f"{found}: at the most {most:.1f} points."}
    if interval.score > 0:  # type: ignore[operator]
        return {"verdict": "better so", "reason": f"{found}: the answers are better under this condition."}
    return {"verdict": f"{subject} matters here", "reason": f"{found}."}


def headline(name: str, conditions: Mapping[str, Mapping]) -> str:
    """Whether the generator matters, in a sentence.

    Another clip's features decide: without any, a model misses what it was trained with, whatever that says.
    """
    verdicts = {key: one["verdict"] for key, one in conditions.items() if one["of_generator"] and key != AS_IT_IS}
    other = conditions["other clip"]
    decides = main_average(other["differences"])
    if set(verdicts.values()) == {"no difference at all"}:
        return f"The generator has no effect on {name}: whatever its features are, every visual token is the same."
    if verdicts["other clip"] == "the generator matters here":
        change = f"with another scene's features the {decides} score changes by {other['reason']}"
        return f"The generator matters in {name}: {change}"
    if verdicts["other clip"] == "too few scenes":
        return f"Too few scenes to say whether the generator matters in {name}: {other['reason']}"
    matters = [key for key, word in verdicts.items() if word == "the generator matters here"]
    if matters:
        return (
            f"{name} depends on its generative stream ({', '.join(matters)}), but not measurably on what it says of "
            f"the scene: with another scene's features {other['reason']}"
        )
    return f"No measurable effect of the generator on {name}: with another scene's features {other['reason']}"


def gate_sentences(result: Mapping) -> list[str]:
    """What the fusion does to a token: its own numbers, its gate, and how far it moves the tokens."""
    scalars = ", ".join(f"{name} = {value:.4g}" for name, value in result["fusion_scalars"].items())
    lines = [f"The fusion is {result['settings']['fusion']}{f' ({scalars})' if scalars else ''}."]
    gate, change = result["gate"], result["fusion_change"]
    if gate is None:
        lines.append("It has no gate.")
    elif gate["highest"] - gate["lowest"] < FLAT:
        lines.append(
            f"The gate is one number, {gate['mean']:.3f}, and no map: in every clip 90 % of the tokens lie between "
            f"{gate['lowest']:.3f} and {gate['highest']:.3f}. 1 keeps the semantic token alone."
        )
    else:
        lines.append(
            f"The gate is {gate['mean']:.3f} in the mean, with a standard deviation of {gate['sd_over_tokens']:.3f} "
            f"over the tokens of a clip and of {gate['sd_over_clips']:.3f} over clips. 1 keeps the semantic token "
            "alone."
        )
    middle = change["quantiles"]
    lines.append(
        f"It moves a token by {percent(change['mean'])} % of the token's size (RMS; quantiles of 5, 50 and 95 %: "
        f"{percent(middle['5'])}, {percent(middle['50'])}, {percent(middle['95'])})."
    )
    return lines


def condition_rows(result: Mapping) -> list[list[str]]:
    """A row for each condition, below a row of headings."""
    decides = main_average(result["conditions"][AS_IT_IS]["figures"])
    rows = [["condition", decides, "difference", "95 % interval", "answers changed", "p moved", "tokens", "verdict"]]
    for name, one in result["conditions"].items():
        difference = one["differences"][decides]
        interval = difference["interval"]
        shares = (percent(one[key]["score"]) for key in ("changed_answers", "moved_probability", "token_change"))
        scores = (
            percent(difference["second"]),
            f"{100 * interval['score']:+.1f}",
            span(interval["low"], interval["high"]),
        )
        rows.append([name, *(scores if name != AS_IT_IS else (scores[0], "", "")), *shares, one["verdict"]])
    return rows


def type_rows(result: Mapping) -> list[list[str]]:
    """Scores of each question type and average under each condition, below a row of headings."""
    conditions = result["conditions"]
    counts = {
        name: {scene_name(one) for one in result["questions"] if one["question_type"] == name}
        for name in QUESTION_TYPES
    }
    rows = [["type", "scenes", *conditions]]
    for name in QUESTION_TYPES:
        if counts[name]:
            scores = [percent(one["types"][name]) for one in conditions.values()]
            rows.append([name, str(len(counts[name])), *scores])
    for name in AVERAGES:
        if name in conditions[AS_IT_IS]["figures"]:
            scores = [percent(one["figures"][name]["score"]) for one in conditions.values()]
            rows.append([name, str(conditions[AS_IT_IS]["scenes"][name]), *scores])
    return rows


def audit_notes(result: Mapping) -> list[str]:
    """What limits the numbers of an audit."""
    lines = scene_notes(result["conditions"][AS_IT_IS]["scenes"])
    if result["left_out"]:
        lines.append(f"note: scenes left out, for no other has clips of their grid: {len(result['left_out'])}")
    if result["settings"].get("notice"):
        lines.append(f"note: {result['settings']['notice']}")
    return lines


def audit_table(result: Mapping) -> str:
    """The tables of an audit for a terminal, in percent and points."""
    head = f"{len(result['questions'])} questions on {len(result['scenes'])} scenes under {len(CONDITIONS)} conditions"
    tables = [*aligned(condition_rows(result)), "", *aligned(type_rows(result))]
    return "\n".join([result["headline"], head, "", *tables, "", *gate_sentences(result), *audit_notes(result)])
