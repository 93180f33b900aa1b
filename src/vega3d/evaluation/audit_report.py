"""What an audit says: paired differences from the answers as they are, verdicts, gates, the table and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

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


# --- The page: one HTML file that needs nothing else, in light and dark ----------------------------------------------

WIDTH, ROW, LABEL, MARGIN = 760, 26, 150, 70  # of the bars [px]
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #666; --line: #ddd; --paper: #fff;
  --bar: #2b6cb0; --other: #9aa5b1; --strong: #b83232; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a0a0a0; --line: #444; --paper: #16181b;
  --bar: #6aa9e9; --other: #6b7580; --strong: #ef7a7a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.headline { font-size: 1.1rem; border-left: 4px solid var(--bar); padding-left: .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.words td + td { white-space: normal; } th { color: var(--soft); font-weight: 600; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg .soft { fill: var(--soft); } .note { color: var(--soft); }
"""


def audit_page(result: Mapping) -> str:
    """The HTML of an audit's result, of `summarise_audit`."""
    name = result["settings"]["name"]
    made = {
        "format": result["format"],
        "command": result.get("command", "-"),
        "seed": result["seed"],
        "resamples": result["resamples"],
        "seconds": result["seconds"],
        **{f"settings: {key}": value for key, value in result["settings"].items()},
        **{f"version: {key}": value for key, value in result["versions"].items()},
    }
    words = [[key, one["what"], one["reason"]] for key, one in result["conditions"].items()]
    body = [
        f"<h1>Does the generator matter in {escape(name)}?</h1>",
        f'<p class="headline">{escape(result["headline"])}</p>',
        f"<p>{len(result['questions'])} questions on {len(result['scenes'])} scenes, each asked under "
        f"{len(result['conditions'])} conditions. Intervals are of 95 % over scenes, paired.</p>",
        "<h2>Difference from the answers as they are</h2>",
        bars(result),
        '<p class="note">Blue: the generative stream alone is changed. Grey: both streams are.</p>',
        table(condition_rows(result)),
        '<p class="note">Scores in percent, differences in points. <i>answers changed</i>: share of the parsed '
        "answers that differ. <i>p moved</i>: share of the options' probability that moved. <i>tokens</i>: change of "
        "the visual tokens, in percent of their size (RMS).</p>",
        "<h2>Scores of each type of question</h2>",
        table(type_rows(result)),
        "<h2>What the fusion does</h2>",
        *(f"<p>{escape(line)}</p>" for line in gate_sentences(result)),
        table(statistics_rows(result)),
        "<h2>The conditions</h2>",
        table([["condition", "what the model sees", "result"], *words], "words"),
        '<p class="note">Questions about the order of appearance, and others whose answer depends on the order of '
        "frames, have no right answer under <i>shuffled frames</i>, <i>repeated frame</i> and <i>blind</i>; under "
        "<i>shuffled features</i> the VLM's own tokens still tell the order.</p>",
        *(f'<p class="note">{escape(line)}</p>' for line in audit_notes(result)),
        "<h2>How it was made</h2>",
        table([["", ""], *([key, str(value)] for key, value in made.items())], "words"),
    ]
    head = f'<meta charset="utf-8"><title>Audit of {escape(name)}</title><style>{STYLE}</style>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return "\n".join(
        ["<!DOCTYPE html>", f'<html lang="en"><head>{head}{view}</head><body>', *body, "</body></html>\n"]
    )


def table(rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Rows of text as a table, the first of them its headings."""
    head, *others = (
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True)
    )
    lines = "".join(f"<tr>{row}</tr>" for row in others)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def statistics_rows(result: Mapping) -> list[list[str]]:
    """The gate, and the change of a token by the fusion, over tokens and clips."""
    names = ["mean", "sd over tokens", "sd over clips", *(f"{quantile} %" for quantile in QUANTILES)]
    rows = [["", *names]]
    for name, one in (("gate", result["gate"]), ("relative change of a token", result["fusion_change"])):
        if one is not None:
            values = [one["mean"], one["sd_over_tokens"], one["sd_over_clips"], *one["quantiles"].values()]
            rows.append([name, *(f"{value:.4f}" for value in values)])
    return rows


def bars(result: Mapping) -> str:
    """A bar for the difference of each condition from the answers as they are, with its interval, as SVG."""
    decides = main_average(result["conditions"][AS_IT_IS]["figures"])
    shown = {key: one for key, one in result["conditions"].items() if key != AS_IT_IS}
    intervals = {key: one["differences"][decides]["interval"] for key, one in shown.items()}
    ends = [100 * value for one in intervals.values() for value in one.values() if value is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    scale = (WIDTH - LABEL - 2 * MARGIN) / max(high - low, 1.0)

    def across(points: float) -> float:
        return round(LABEL + MARGIN + scale * (points - low), 1)

    marks = [f'<line x1="{across(0)}" x2="{across(0)}" y1="0" y2="{ROW * len(shown)}" stroke="var(--soft)"/>']
    for place, (key, interval) in enumerate(intervals.items()):
        middle, score = ROW * place + ROW / 2, 100 * interval["score"]
        colour = "var(--bar)" if shown[key]["of_generator"] else "var(--other)"
        left, right = sorted((across(0), across(score)))
        marks.append(f'<text x="0" y="{middle + 4}">{escape(key)}</text>')
        marks.append(f'<rect x="{left}" y="{middle - 7}" width="{right - left:.1f}" height="14" fill="{colour}"/>')
        if interval["low"] is not None:
            start, end = across(100 * interval["low"]), across(100 * interval["high"])
            marks.append(
                f'<path d="M{start} {middle}H{end}M{start} {middle - 4}v8M{end} {middle - 4}v8" stroke="var(--ink)"/>'
            )
        text = max(across(0), across(100 * (interval["high"] or 0)), across(score)) + 8
        marks.append(f'<text class="soft" x="{text}" y="{middle + 4}">{score:+.1f}</text>')
    height = ROW * len(shown)
    title = f"Difference of the {decides} score in points, with 95 % intervals over scenes"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{title}">{"".join(marks)}</svg>'
    )
