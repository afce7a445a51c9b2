"""A certificate as text: verdict, scope, the chain of layers, and the findings."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from convexnet.curvature.findings import WIDTH, Finding

if TYPE_CHECKING:
    from convexnet.curvature.certificate import Certificate

LONGEST = 20
"""Rows of a chain that are printed in full."""
OUTPUTS = 8


def render(certificate: Certificate) -> str:
    """The report that `str(certificate)` prints."""
    shapes = ", ".join("(B" + "".join(f", {n}" for n in shape) + ")" for shape in certificate.shapes)
    about = [
        f"input{'s' if len(certificate.shapes) > 1 else ''} {shapes}",
        count_in_words(certificate.operators, "operator"),
    ]
    if certificate.domain:
        about.append(certificate.domain)
    about.append("eval mode, real arithmetic")
    findings = merge_findings(certificate.findings)
    lines = [certificate.headline(), "  " + " · ".join(about), "", *table(certificate, findings)]
    if len(certificate.outputs) > 1:
        listed = list(certificate.outputs.items())
        lines += ["", *(f"  {path} is {curvature}" for path, curvature in listed[:OUTPUTS])]
        if len(listed) > OUTPUTS:
            lines.append(f"  ... and {count_in_words(len(listed) - OUTPUTS, 'more output')}")
    for note in dict.fromkeys(certificate.notes):
        lines += ["", *textwrap.wrap(f"note: {note}", WIDTH, initial_indent="  ", subsequent_indent="        ")]
    for number, (finding, times) in enumerate(findings, 1):
        text = str(finding).split("\n")
        head = f"  {number}. {text[0]}" + (f"   ({times} times)" if times > 1 else "")
        lines += ["", head, *(f"  {line}" for line in text[1:])]
    return "\n".join(lines)


def count_in_words(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def merge_findings(findings: tuple[Finding, ...]) -> list[tuple[Finding, int]]:
    """The findings, each listed once, with how often it occurs with the same operator, reason and argument."""
    found: dict[tuple[str, ...], tuple[Finding, int]] = {}
    for finding in findings:
        key = finding.operator, finding.argument, finding.reason, finding.remedy
        first, times = found.get(key, (finding, 0))
        found[key] = first, times + 1
    return list(found.values())


def table(certificate: Certificate, findings: list[tuple[Finding, int]]) -> list[str]:
    """The chain of layers: steps of one module share a row; long chains are cut to where something changes."""
    marks = {finding.step: number for number, (finding, _) in enumerate(findings, 1) if finding.step >= 0}
    rows: list[tuple[str, str, str, int]] = []  # path, operators, result, finding
    for i, step in enumerate(certificate.steps):
        mark = marks.get(i, 0)
        if rows and rows[-1][0] == step.path and step.path and not mark and not rows[-1][3]:
            rows[-1] = (step.path, f"{rows[-1][1]}, {step.operator}", step.result, 0)
        else:
            rows.append((step.path, step.operator, step.result, mark))
    if not rows:
        return ["  nothing depends on the input"]
    kept = rows_to_print([row[2].split(",")[0] for row in rows], [row[3] for row in rows])
    first = min(44, max(len("layer"), *(len(rows[i][0]) for i in kept)))
    second = min(34, max(len("operator"), 16 if len(kept) < len(rows) else 0, *(len(rows[i][1]) for i in kept)))
    lines = [f"  {'layer':<{first}}  {'operator':<{second}}  known after it"]
    previous = -1
    for i in [*kept, len(rows)]:
        if i > previous + 1:
            last = rows[i - 1][2]
            lines.append(f"  {'...':<{first}}  {count_in_words(i - previous - 1, 'more row'):<{second}}  {last}")
        if i < len(rows):
            path, operator, result, mark = rows[i]
            arrow = f"   <- {mark}" if mark else ""
            lines.append(f"  {clip(path or '.', first):<{first}}  {clip(operator, second):<{second}}  {result}{arrow}")
        previous = i
    return [line if len(line) <= WIDTH + 20 else line[: WIDTH + 17] + "..." for line in lines]


def clip(text: str, width: int) -> str:
    """The two ends of a long text."""
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def rows_to_print(curvatures: list[str], marks: list[int]) -> list[int]:
    """Which rows to print: the ends, the changes and the findings; of unknown rows after a finding only the changes."""
    n = len(curvatures)
    dull = [i for i in range(1, n) if curvatures[i] == curvatures[i - 1] == "unknown" and not marks[i]]
    if n - len(dull) <= LONGEST:
        return [i for i in range(n) if i not in dull] if len(dull) > 2 else list(range(n))
    changes = [i for i in range(1, n) if curvatures[i] != curvatures[i - 1] or marks[i]]
    wanted = {0, 1, n - 2, n - 1} - set(dull)
    for i in changes[:LONGEST]:
        wanted |= {i - 1, i, min(i + 1, n - 1)} - set(dull)
    return sorted(wanted)
