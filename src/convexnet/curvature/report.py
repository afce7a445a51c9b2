"""A certificate as text: verdict, scope, the chain of layers, and the findings."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convexnet.curvature.certificate import Certificate, Finding

WIDTH = 100
LONGEST = 18


def render(certificate: Certificate) -> str:
    """The report that `str(certificate)` prints."""
    shapes = ", ".join("(B" + "".join(f", {n}" for n in shape) + ")" for shape in certificate.shapes)
    about = [f"input{'s' if len(certificate.shapes) > 1 else ''} {shapes}", f"{certificate.operators} operators"]
    if certificate.domain:
        about.append(certificate.domain)
    about.append("eval mode, real arithmetic")
    lines = [certificate.headline(), "  " + " · ".join(about), ""]
    lines += table(certificate)
    if len(certificate.outputs) > 1:
        lines += ["", *(f"  {path} is {curvature}" for path, curvature in certificate.outputs.items())]
    for number, finding in enumerate(certificate.findings, 1):
        lines += ["", *block(number, finding)]
    return "\n".join(lines)


def block(number: int, finding: Finding) -> list[str]:
    """A finding, wrapped under its number."""
    head = f"{number}. {finding.path or 'forward'}: {finding.operator}"
    lines = [f"  {head}" + (f"   {finding.source}" if finding.source else "")]
    for name, text in (("argument", finding.argument), ("why", finding.reason), ("remedy", finding.remedy)):
        if text:
            indent = " " * 5
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=f"{indent}{name:<10}", subsequent_indent=indent + " " * 10
            )
    return lines


def table(certificate: Certificate) -> list[str]:
    """The chain of layers; long ones are cut to where something changes."""
    rows: list[tuple[str, str, str]] = []
    for step in certificate.steps:
        if rows and rows[-1][0] == step.path and step.path:
            rows[-1] = (step.path, f"{rows[-1][1]}, {step.operator}", step.result)
        else:
            rows.append((step.path, step.operator, step.result))
    if not rows:
        return ["  nothing depends on the input"]
    for number, finding in enumerate(certificate.findings, 1):
        for i, (path, operators, result) in enumerate(rows):
            if path == finding.path and finding.operator.removeprefix("aten.") in operators.split(", "):
                rows[i] = (path, operators, f"{result}   <- {number}")
                break
    keep = shown([row[2] for row in rows])
    first = max(len("layer"), *(len(rows[i][0]) for i in keep))
    first = min(first, 44)
    second = min(max(len("operator"), *(len(rows[i][1]) for i in keep)), 34)
    lines = [f"  {'layer':<{first}}  {'operator':<{second}}  known after it"]
    previous = -1
    for i in keep:
        if i > previous + 1:
            lines.append(f"  {'...':<{first}}  {f'{i - previous - 1} more layers':<{second}}  {rows[i - 1][2]}")
        path, operator, result = rows[i]
        lines.append(f"  {clip(path or '.', first):<{first}}  {clip(operator, second):<{second}}  {result}")
        previous = i
    return lines


def clip(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[-(width - 3) :]


def shown(results: list[str]) -> list[int]:
    """Which rows to print: all of a short chain; else the ends and the changes of curvature."""
    n = len(results)
    if n <= LONGEST:
        return list(range(n))
    curvature = [result.split(",")[0] for result in results]
    changes = [i for i in range(1, n) if curvature[i] != curvature[i - 1]]
    wanted = {0, 1, n - 2, n - 1}
    for i in changes[: LONGEST // 2]:
        wanted |= {i - 1, i, min(i + 1, n - 1)}
    return sorted(wanted)
