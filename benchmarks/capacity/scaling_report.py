"""A comparison of rules for an autoscaler for people: Markdown tables, and the pods over time as a plot."""

from __future__ import annotations

from typing import Any

from benchmarks.load.report import table

HEAD = ("traffic", "cold start, s", "rule", "p50, ms", "p99, ms", "not answered", "replica-hours", "pods")
EXPLAINED = """\
Simulated, not measured, and run on no cluster. `waiting`: photos waiting for each pod. `busy`: share of the time in which
the engine runs. `load`: share of the busiest part of a pod, where an engine call counts for what a call of the best size
would have taken (`food_vision_load_percent`). Of several metrics the one that asks for most pods counts. `fixed`: pods for
the peak, never changed. Not answered: refused, or later than the deadline. Percentiles are of what was answered. Hours
count from when a pod is asked for."""


def markdown(result: dict[str, Any]) -> str:
    """The whole result."""
    behaviour, delays, hardware = result["behaviour"], result["delays"], result["hardware"]
    changes = " with local changes" if result["dirty"] else ""
    where = f"simulated on {hardware['cpu']}, {hardware['cores']} cores"
    parts = [
        "# What to scale on",
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}{changes}; {where}. `{result['command']}`",
        EXPLAINED,
        f"The autoscaler looks every 15 s at what was scraped every {delays['scrape']:g} s and can be read "
        f"{delays['visible']:g} s later; {behaviour['least']} to {behaviour['most']} pods, at most twice as many or "
        f"{behaviour['up_pods']} more in a minute, {behaviour['down_pods']} fewer in a minute, after "
        f"{behaviour['down_seconds']:g} s in which no more were wanted. Traffic is in units of what one pod can do: "
        "`steady` 2.4; `ramp` 1 to 8 in half an hour and back; `step` 2 to 8 at once and back; `day` 1 at night, 8 at "
        "dinner. All but the day is repeated, up to eight hours in all; shares and hours are means.",
    ]
    for name, kind in result["replicas"].items():
        parts += [
            f"## {name}: {kind['what']}",
            f"One pod answers {kind['capacity']:,.4g} a second at most.",
            _one(kind),
        ]
        runs = [run for run in result["runs"] if run["replica"] == name]
        parts.append(table(HEAD, [_row(run, run["rule"]) for run in runs]))
    if result["targets"]:
        parts += ["## Which target", "Of the first replica, with photos waiting as the second metric."]
        parts.append(table(HEAD, [_row(run, f"load {run['target']:g} %") for run in result["targets"]]))
    return "\n\n".join(parts) + "\n"


def _one(kind: dict[str, Any]) -> str:
    rows = [
        [f"{100 * share:.0f} %", f"{100 * busy:.0f} %", f"{100 * load:.0f} %", f"{waiting:.1f}"]
        for share, busy, load, waiting in zip(kind["shares"], kind["busy"], kind["load"], kind["waiting"], strict=True)
    ]
    return table(("of what it can do", "busy", "load", "waiting (mean)"), rows)


def _row(run: dict[str, Any], rule: str) -> list[str]:
    return [
        run["shape"], f"{run['cold_start']:g}", rule, f"{run['p50_ms']:,.4g}", f"{run['p99_ms']:,.4g}",
        f"{100 * run['failed_share']:.2f} %", f"{run['replica_hours']:,.1f}", f"{run['least']} to {run['most']}",
    ]  # fmt: skip


def plot(result: dict[str, Any]) -> bytes:
    """PNG: pods that are ready over time by rule, and how many would be needed; a panel for each traffic and start."""
    import matplotlib.pyplot as plt

    from benchmarks.load.plots import COLOURS, SIZE, png  # needs matplotlib, which the tables do not

    name = next(iter(result["replicas"]))
    runs = [run for run in result["runs"] if run["replica"] == name and run["rule"] != "fixed"]
    places = list(dict.fromkeys((run["shape"], run["cold_start"]) for run in runs))
    shapes, starts = (list(dict.fromkeys(values)) for values in zip(*places, strict=True))
    size = (0.75 * SIZE[0] * len(starts), 0.6 * SIZE[1] * len(shapes))
    figure, grid = plt.subplots(len(shapes), len(starts), figsize=size, squeeze=False)
    for shape, cold_start in places:
        axes = grid[shapes.index(shape)][starts.index(cold_start)]
        here = [run for run in runs if (run["shape"], run["cold_start"]) == (shape, cold_start)]
        hours = [minute / 60 for minute in range(len(here[0]["needed"]))]
        axes.plot(hours, here[0]["needed"], color=COLOURS[-1], linestyle=":", label="needed, at their end")
        for run, colour in zip(here, (COLOURS[1], COLOURS[4], COLOURS[0]), strict=True):
            axes.step(hours, run["ready"], where="post", color=colour, label=run["rule"])
        axes.set(xlabel="hours", ylabel="pods ready", ylim=(0, None), title=f"{shape}, cold start {cold_start:g} s")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1][0].legend(fontsize=8, frameon=False, loc="upper left")
    return png(figure)
