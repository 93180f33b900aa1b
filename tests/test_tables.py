from vega3d.tables import aligned, two_columns


def test_a_table_has_names_to_the_left_and_values_to_the_right():
    rows = [["category", "questions", "95 % interval"], ["room size", "7", "[31.0, 62.5]"], ["macro", "", "-"]]

    lines = aligned(rows)

    assert lines == [
        "category   questions  95 % interval",
        "room size          7   [31.0, 62.5]",
        "macro                             -",
    ]


def test_what_looks_like_markup_or_is_wide_stays_as_it_is():
    lines = aligned([["[red]x[/red] :tada:", "1"], ["房间", "22"], ["n" * 200, "3"]])

    assert lines[0] == "[red]x[/red] :tada:".ljust(200) + "   1"
    assert lines[1] == "房间" + " " * 196 + "  22"  # each of the two signs fills two columns
    assert lines[2] == "n" * 200 + "   3"


def test_names_and_values():
    lines = two_columns({"residual_scale": 0.123456, "steps": 100_000, "cache": None}, width=16)

    assert lines == ["residual scale   0.1235", "steps            100000", "cache            -"]
