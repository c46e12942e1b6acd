"""The README keeps its promises."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_as_written(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 25
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["actions"].shape == (3, 1)
    assert names["report"].holdout.nll.shape == (5,)
    assert "ignorance" in capsys.readouterr().out


def test_every_file_and_folder_that_it_names_exists():
    named = re.findall(r"[`(]((?:layeredrl|experiments|scripts|tests)/[\w/.]*)[`)]", README)
    assert len(named) > 10
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
