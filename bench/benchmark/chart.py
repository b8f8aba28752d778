"""The chart: bars for what people compare, as an SVG that reads on light and on dark paper.

The background is transparent and no colour is near black or white, since a picture in a README cannot know which of
the two lies under it.
"""

from xml.sax.saxutils import escape

INK = "#7d8590"
BARS = {"drydock": "#2f81f7"}
OTHERS = "#9aa4b1"
GOAL = "#d9822b"

WIDTH, MARGIN, GAP = 860, 16, 40
PANEL = (WIDTH - 2 * MARGIN - GAP) // 2
NAME, VALUE = 112, 48
ROW, BAR, HEAD, FOOT = 24, 15, 42, 24


def draw(results, panels):
    panels = [panel for panel in panels if panel["bars"]]
    parts, top = [], 54
    for index in range(0, len(panels), 2):
        pair = panels[index:index + 2]
        for column, panel in enumerate(pair):
            parts += draw_panel(panel, MARGIN + column * (PANEL + GAP), top)
        top += HEAD + FOOT + ROW * max(len(panel["bars"]) for panel in pair)
    setting = results["setting"]
    size = f"{setting['data_directory_bytes'] / 1e9:.1f} GB"
    title = f"{size} of PostgreSQL {setting['postgresql']} on {setting['cores']} cores"
    rounds = "one round" if setting["rounds"] == 1 else f"medians of {setting['rounds']} rounds"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
        f' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        text(MARGIN, 26, title, size=17, weight=600),
        text(WIDTH - MARGIN, 26, rounds, anchor="end"),
        *parts,
        "</svg>",
    ]) + "\n"


def all_panels(results, medians):
    """What is drawn."""
    tools = list(results["tools"])
    names = {key: tool["name"] for key, tool in results["tools"].items()} | {"pg_receivewal": "pg_receivewal"}

    def panel(title, unit, values, goal=None, more_is_better=False):
        return bars(names, title, unit, values, goal, more_is_better)

    def of_all(step, field, by=1.0):
        found = {tool: medians.of(tool, step, field) for tool in tools}
        return {tool: value / by for tool, value in found.items() if value is not None}

    def share(values, part):
        return values["pgbackrest"] * part if "pgbackrest" in values else None

    backup, restore = of_all("backup", "seconds"), of_all("restore", "seconds")
    size = of_all("backup", "bytes", 1e6)
    yield panel("Full backup", "s", backup, share(backup, 0.8))
    yield panel("Restore", "s", restore, share(restore, 0.65))
    yield panel("Size in the repository", "MB", size, share(size, 1.1))
    rates = {key: medians.rate(key) for key in ["drydock", "pg_receivewal", "pgbackrest"]}
    rates = {key: rate / 1e6 for key, rate in rates.items() if rate is not None}
    yield panel("WAL catch-up", "MB/s", rates, rates.get("pg_receivewal"), more_is_better=True)
    yield panel("Peak memory of a full backup", "MB", of_all("backup", "peak_bytes", 1e6), 150.0)
    yield panel("Peak memory of a restore", "MB", of_all("restore", "peak_bytes", 1e6), 150.0)


def bars(names, title, unit, values, goal=None, more_is_better=False):
    """A panel; a goal is where our bar should end at the latest, or at the earliest."""
    drawn = [(key, names[key], value) for key, value in values.items() if value is not None]
    return {"title": title, "unit": unit, "bars": drawn, "goal": goal, "more": more_is_better}


def draw_panel(panel, left, top):
    direction = "more is better" if panel["more"] else "less is better"
    parts = [text(left, top + 16, f"{panel['title']}, {panel['unit']}", size=14, weight=600),
             text(left + PANEL, top + 16, direction, size=11, anchor="end")]
    room = PANEL - NAME - VALUE
    highest = max([value for _, _, value in panel["bars"]] + [panel["goal"] or 0.0]) or 1.0
    for index, (key, name, value) in enumerate(panel["bars"]):
        y = top + HEAD + index * ROW
        weight = 600 if key == "drydock" else 400
        width = max(1.0, room * value / highest)
        parts += [text(left + NAME - 8, y + 12, name, anchor="end", weight=weight),
                  f'<rect x="{left + NAME}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"'
                  f' fill="{BARS.get(key, OTHERS)}"/>',
                  text(left + PANEL, y + 12, number(value), anchor="end", weight=weight)]
    ours = [index for index, (key, _, _) in enumerate(panel["bars"]) if key == "drydock"]
    if panel["goal"] and ours:
        # As high as our own bar, which it is about.
        x, y = left + NAME + room * panel["goal"] / highest, top + HEAD + ours[0] * ROW
        parts += [f'<path d="M{x:.1f} {y - 5}v{BAR + 8}" stroke="{GOAL}" stroke-width="2.5"/>',
                  text(x, y - 7, "goal", size=10.5, anchor="middle", fill=GOAL)]
    return parts


def text(x, y, words, size=None, anchor=None, weight=None, fill=None):
    attributes = [("font-size", size), ("text-anchor", anchor), ("font-weight", weight), ("fill", fill)]
    more = "".join(f' {name}="{value}"' for name, value in attributes if value)
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
