"""Writes the tables of docs/performance.md from the records in benchmarks/results, between their markers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def steps(results: dict[str, Any]) -> str:
    """Time per step, and the ratios."""
    rows: list[list[str]] = []
    for record in results["records"]:
        median = {part: statistics.median(times) for part, times in record["milliseconds"].items()}
        rows.append(
            [
                record["network"],
                f"{record['masked weights'] / 1e6:.2f} M",
                str(record["samples"]),
                *(f"{median[part]:.1f}" for part in ("plain", "published", "maskscope")),
                f"{record['published/plain']:.2f}",
                f"**{record['maskscope/plain']:.2f}**",
                f"**{record['published/maskscope']:.2f}**",
                *([f"{record['bfloat16/plain']:.2f}"] if "bfloat16/plain" in record else []),
            ]
        )
    head = ["network", "masked weights", "K", "plain, ms", "published, ms", "maskscope, ms"]
    machine = results["machine"]
    note = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}."
    ratios = ["published / plain", "maskscope / plain", "published / maskscope", "bfloat16 / plain"]
    return f"{note}\n\n{table([*head, *ratios][: len(rows[0])], rows)}"


def growth(results: dict[str, Any]) -> str:
    """Memory and time of each configuration."""
    rows = [
        [
            record["name"],
            f"{record['masked weights' if record['samples'] else 'weights'] / 1e6:.2f} M",
            ("plain training" if not record["samples"] else f"masked, K = {record['samples']}")
            + (", low memory" if record["low_memory"] else ""),
            f"{record['milliseconds']:.0f}",
            f"{record['peak, MB']:,.0f}",
            f"{record['bytes a weight']:.1f}",
        ]
        for record in results["records"]
    ]
    return table(["network", "weights", "step", "ms", "peak, MB", "bytes a weight"], rows)


def schedules(results: dict[str, Any]) -> str:
    """Final masks of every schedule, and how they overlap."""
    rows: list[list[str]] = []
    for case, result in results.items():
        among = result["IoU of final masks"]
        for name in dict.fromkeys(row["schedule"] for row in result["masks"]):
            last = [row for row in result["masks"] if row["schedule"] == name and row["last"]]
            pairs = sorted((name, "published"))
            rows.append(
                [
                    case,
                    name,
                    _mean(row["step"] for row in last),
                    _mean(row["kept"] for row in last),
                    _mean(row["undecided"] for row in last),
                    *(
                        _percent(row[f"{m}: {w}"] for row in last)
                        for m in ("mask", "complement")
                        for w in ("own", "other")
                    ),
                    _span(among.get(f"{name} | {name}", [])),
                    _span(among.get(" | ".join(pairs), [])) if name != "published" else "",
                    str(len(last)),
                ]
            )
    head = ["case", "schedule", "steps", "kept", "undecided", "own", "other", "¬ own", "¬ other"]
    return table([*head, "IoU among themselves", "IoU with published", "n"], rows)


def curve(results: dict[str, Any]) -> str:
    """The fast schedule along the way."""
    rows = [
        [
            case,
            row["schedule"],
            f"{row['step']:,}",
            f"{row['kept']:,}",
            f"{100 * row['mask: own']:.1f}",
            f"{100 * row['complement: other']:.1f}",
            _span(row["IoU with references"]),
        ]
        for case, result in results.items()
        for row in sorted(result["masks"], key=lambda row: (row["schedule"] == "fast", row["step"]))
        if row["seed"] == 0 and row["schedule"] in ("published", "fast")
    ]
    return table(["case", "schedule", "steps", "kept", "own, %", "¬ other, %", "IoU with the references"], rows)


def _mean(values: Any) -> str:
    return f"{statistics.mean(values):,.0f}"


def _percent(values: Any) -> str:
    return f"{100 * statistics.mean(values):.1f}"


def _span(values: list[float]) -> str:
    return " ".join(f"{value:.3f}".removeprefix("0") for value in values)


def main() -> None:
    """Fill in whatever has been measured."""
    text = PAGE.read_text()
    for name, file, make in (
        ("steps", "steps.json", steps),
        ("steps on a GPU", "steps-gpu.json", steps),
        ("growth", "growth.json", growth),
        ("schedules", "schedules.json", schedules),
        ("curve", "schedules.json", curve),
    ):
        path = HERE / "results" / file
        if path.exists():
            before, rest = text.split(f"<!-- {name} -->\n")
            _, after = rest.split(f"<!-- end of {name} -->")
            text = f"{before}<!-- {name} -->\n{make(json.loads(path.read_text()))}\n<!-- end of {name} -->{after}"
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
