"""The page on evaluation says what the code computes."""

import re
from pathlib import Path

from meta_train import evaluate
from meta_train.evaluate import suites

PAGE = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()


def test_the_worked_example_works_from_top_to_bottom(capsys):
    names = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(snippet, "evaluation.md", "exec"), names)
    printed = re.search(r"# (\S+ \[.*?\]): two tasks", PAGE)[1]
    assert capsys.readouterr().out.strip() == printed


def test_every_baseline_and_every_suite_is_on_the_page():
    for name in (*evaluate.ALL, *evaluate.suite_names()[: 2 + len(suites.SWEEPS)]):
        short = name.partition(":")[0] if name.startswith("opt_list") else name
        assert f"`{short}" in PAGE, name


def test_the_trials_on_the_page_are_the_points_that_are_tried():
    described = re.findall(r"^\| `([\w:]+)`[^|]*\|[^|]*\| (\d+) \|$", PAGE, re.M)
    compared = re.findall(r"^\| `([\w:.=]+)` \| (\d+) \|", PAGE, re.M)
    assert len(described) >= 5 and set(evaluate.ALL) <= {name for name, _ in compared}
    rows = described + compared
    for name, trials in rows:
        if name.endswith(("tuned", "global")):
            assert len(evaluate.contender(name).points) == int(trials)
