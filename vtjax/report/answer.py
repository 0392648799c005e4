"""What `vtjax.predict` prints and writes, whatever the method: lines, a JSON record, a table and a page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from vtjax.files import write_atomically
from vtjax.report.page import Page


@dataclasses.dataclass
class Answer:
    """An answer in every form.

    Attributes:
      lines: for a terminal.
      record: for JSON.
      header, rows: for CSV; None is an empty cell.
      page: for a browser.
      indent: of the JSON file; None writes one line, for long records.
    """

    lines: Sequence[str]
    record: Any
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    page: Page
    indent: int | None = 1

    def write(self, output: pathlib.Path) -> list[pathlib.Path]:
        """Writes OUTPUT.json, OUTPUT.csv and OUTPUT.html; returns their paths.

        Raises:
          VtjaxError: they cannot be written.
        """
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        text = json.dumps(self.record, indent=self.indent, ensure_ascii=False) + "\n"
        return [
            write_atomically(output.with_suffix(".json"), text),
            write_atomically(output.with_suffix(".csv"), table.getvalue()),
            self.page.save(output.with_suffix(".html")),
        ]


def ranking(matches: Sequence[Any]) -> tuple[list[str], list[str], list[list[Any]]]:
    """Lines for a terminal, header and rows of ranked matches with name, score, text and, where they have one, a time.

    Args:
      matches: best first; scores are cosines, times seconds.
    """
    timed = any(getattr(match, "start", None) is not None for match in matches)
    lines, rows = [], []
    for place, match in enumerate(matches, 1):
        start, end = getattr(match, "start", None), getattr(match, "end", None)
        times = "" if start is None else f"{start:.1f}\u2013{end:.1f} s"
        parts = "  ".join(part for part in (match.name, times, match.text) if part)
        lines.append(f"{place:3d}  {match.score:+.3f}  {parts}")
        rows.append([place, match.score, match.name, *([start, end] if timed else []), match.text])
    return lines, ["rank", "score", "name", *(["start", "end"] if timed else []), "text"], rows
