"""Draw docs/img/scaling.png: work per pixel against the side of the image, from the table of docs/scaling.md."""

from pathlib import Path

from lungseg.charts import line_chart

DOCS = Path(__file__).resolve().parents[1]


def main() -> None:
    page = (DOCS / "scaling.md").read_text(encoding="utf-8").splitlines()
    head = next(number for number, line in enumerate(page) if line.startswith("| side "))
    names = [cell.split(":")[0].strip() for cell in page[head].strip("| ").split(" | ")[1:4]]
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for line in page[head + 2 :]:
        if not line.startswith("|"):
            break
        side, *cells = line.strip("| ").split(" | ")
        for name, cell in zip(names, cells, strict=False):
            series[name].append((float(side), float(cell)))
    chart = line_chart(
        series,
        title="kFLOP per pixel: flat is linear in pixels",
        x_label="side of the image in pixels",
        y_range=(8, 40),
        log="xy",
        scale=2,
    )
    chart.save(DOCS / "img/scaling.png", optimize=True)


if __name__ == "__main__":
    main()
