"""Whether the reason of an answer says the right option, whatever its letter is.

To say `Turn Left` and then the letter of another option is a mistake of spelling, not of space. How often it happens
differs from run to run much more than what is said, so the letters of two arms alone do not tell which one knows more.
"""

from collections.abc import Mapping, Sequence

OFFICIAL, SAID = "official", "said"
SAYS, JUDGES = ": ", "; "  # before the option that a reason says, and before the judgement of each option
LETTER = len("A. ")  # before the text of an option


def said_results(results: Mapping[str, Sequence[Mapping]]) -> dict[str, list[dict]]:
    """Results of all arms in which the official score of a question is that of what its reason says."""
    return {arm: [said_result(result) for result in found] for arm, found in results.items()}


def said_result(result: Mapping) -> dict:
    questions = [
        {**question, "scores": {**question["scores"], OFFICIAL: said_score(question)}}
        for question in result["questions"]
    ]
    return {**result, "questions": questions}


def said_score(question: Mapping) -> float:
    """1 if what a reason ends with is the right option, 0 if it is another; else the official score."""
    options = {option[0]: option[LETTER:] for option in question["options"] or ()}
    said = (question.get("reason") or "").rpartition(SAYS)[2].partition(JUDGES)[0]
    if said not in options.values():
        return question["scores"][OFFICIAL]
    return float(said == options[question["ground_truth"]])
