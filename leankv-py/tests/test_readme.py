"""What the README shows runs."""

import pathlib
import re


def test_the_example_runs(capsys):
    readme = pathlib.Path(__file__).parent.parent / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.S)
    exec(compile(example, "README.md", "exec"), {})
    assert "bytes at most" in capsys.readouterr().out
