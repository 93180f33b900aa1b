"""The page of an audit: one HTML file that needs nothing else, in light and dark."""

from collections.abc import Mapping, Sequence
from html import escape

from vega3d.evaluation.audit_report import (
    AS_IT_IS,
    QUANTILES,
    audit_notes,
    condition_rows,
    gate_sentences,
    main_average,
    type_rows,
)

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
    """The HTML of an audit's result, of `audit_report.summarise_audit`."""
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
