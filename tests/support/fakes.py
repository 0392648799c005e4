"""Programs that only record how they are called: {name: its answers} on PATH, calls as lists of words."""

import json
import os
import sys

_PROGRAM = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
with open(folder / "calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:] if {short} else [{name!r}, *sys.argv[1:]]) + "\\n")
answers = folder / "{name}.answers"
if answers.exists() and {key!r} in sys.argv:
    lines = answers.read_text().splitlines()
    print(lines[0])
    answers.write_text("\\n".join(lines[1:] or lines[:1]) + "\\n")
sys.exit(int(os.environ.get("FAKE_STATUS", "0")))
"""


class Fakes:
    """`names` on a PATH of their own. answers: of calls that have the word `key`, one line after the other."""

    def __init__(self, folder, *names, key="describe"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for name in names:
            path = folder / name
            path.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder), name=name, key=key, short=False))
            path.chmod(0o755)

    def answer(self, name, *lines):
        (self.folder / f"{name}.answers").write_text("\n".join(lines) + "\n")

    @property
    def path(self):
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    def calls(self, clear=True):
        file = self.folder / "calls.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        if clear and file.exists():
            file.unlink()
        return found
