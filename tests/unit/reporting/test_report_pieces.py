"""The report's small parts: safe text, marks, curves, charts, markup."""

from __future__ import annotations

import json
import math
import random
import xml.etree.ElementTree as ET

import pytest

from glmjobs import text
from glmjobs.reporting import charts, curves, markdown
from glmjobs.reporting.load import GpuSample
from glmjobs.reporting.markup import Markup, join, script_json, tag


@pytest.mark.parametrize(
    ("said", "value", "marked"),
    [
        ("所以一共有42个。", "42 个", "42个"),
        ("2+40=42, so 42", "42", "42"),
        ("答:142个", "42", ""),
        ("答:42.5个", "42", ""),
        ("答:4/42", "42", ""),
        ("得 3/4 小时", "3/4 小时", "3/4 小时"),
        ("十五只", "15 只", ""),
        ("共15(只)", "15 只", "15"),
        ("", "7", ""),
        ("7", None, ""),
        ("选B", "B", "B"),
    ],
)
def test_the_extracted_answer_is_marked_where_it_stands(said: str, value: str | None, marked: str):
    pieces = text.mark_answer(said, value)
    assert "".join(pieces) == said and pieces[1] == marked


def test_the_last_place_is_marked():
    assert text.mark_answer("5个,不,还是5个", "5 个") == ["5个,不,还是", "5个", ""]


def test_marking_is_linear():
    pieces = text.mark_answer("9" * 1_000_000, "9")
    assert pieces[1] == ""


def test_visible_text_has_no_controls():
    every = "".join(map(chr, range(0x10000)))
    shown = text.visible(every)
    shown.encode("utf-8")
    assert all(c in "\t\n" or ord(c) >= 32 for c in shown)
    assert text.visible("好\t\n a\u200d") == "好\t\n a\u200d"
    assert text.visible("a\u202eb") == "a⟨U+202E⟩b"


def test_clip_keeps_beginning_and_end():
    clipped = text.clip("a" * 5000 + "答:7", 400)
    assert clipped.startswith("a") and clipped.endswith("答:7") and "4,603 characters left out" in clipped
    assert text.clip("short", 400) == "short"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "3", None, 10**400, [1]])
def test_only_finite_numbers_are_numbers(value: object):
    assert text.number(value) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00.500+00:00", 60.5),
        ("1970-01-01T00:01:00", 60.0),
        (60, 60),
        ("soon", None),
        (None, None),
        ("", None),
    ],
)
def test_times(value: object, seconds: float | None):
    assert text.unix_time(value) == seconds


def test_thinning_keeps_spikes_and_ends():
    draw = random.Random(1)
    points = [(float(i), draw.random()) for i in range(20_000)]
    points[7777] = (7777.0, 50.0)
    points[12345] = (12345.0, -50.0)
    kept = curves.thin(points)
    assert len(kept) <= curves.POINTS + 1
    assert points[7777] in kept and points[12345] in kept and kept[0] == points[0] and kept[-1] == points[-1]
    assert kept == sorted(kept)


def test_rows_trained_again_are_told_apart():
    log = [{"step": s} for s in (10, 20, 30, 20, 30, 40)] + [{"step": None}, {}]
    kept, replaced = curves.training_rows(log)
    assert [r["step"] for r in kept] == [10, 20, 30, 40]
    assert [r["step"] for r in replaced] == [20, 30]
    assert kept[1] is log[3]


def test_gpu_samples_fold_into_mean_and_range():
    samples = [GpuSample(1000.0 + t, str(g), 50.0 + g, None, None) for t in range(600) for g in range(4)]
    folded = curves.gpu_curve(samples, lambda s: s.utilisation, 1000.0, bins=60)
    assert 55 <= len(folded) <= 61
    assert all(mean == pytest.approx(51.5) and (low, high) == (50.0, 53.0) for _, mean, low, high in folded)
    assert curves.gpu_curve(samples, lambda s: s.power, 1000.0) == []


@pytest.mark.parametrize("span", [(0, 1), (0, 3100), (0.41, 2.2), (1e-9, 1e-5), (-5, 5), (3, 3), (0, 1e12)])
def test_ticks_are_round_and_inside(span: tuple[float, float]):
    found = charts.ticks(*span)
    assert 1 <= len(found) <= 8
    assert all(span[0] - 1e-9 <= t <= span[1] * (1 + 1e-9) + 1e-12 for t in found)
    if len(found) > 2:
        step = (found[-1] - found[0]) / (len(found) - 1)
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5, 10)


@pytest.mark.parametrize(
    "points",
    [
        [(0.0, 1.0)],
        [(5.0, 0.0), (6.0, 0.0)],
        [(0.0, 1.0), (1.0, 2.0), (100.0, 3.0)],
        [(1.0, -1e-9), (2.0, 1e9)],
    ],
)
def test_line_charts_are_well_formed_and_inside_their_box(points: list[tuple[float, float]]):
    line = charts.Line("<b>&", points, band=[(x, y - 1, y + 1) for x, y in points], gap=50)
    svg = ET.fromstring(charts.line_chart('"loss" <x>', [line], x_name="step", marks=[0.5]))
    assert svg.attrib["aria-label"].startswith('"loss" <x> over step')
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for path in svg.iter("path"):
        for pair in path.attrib["d"].strip("MZ").replace("M", "L").split("L"):
            x, y = map(float, pair.split())
            assert 0 <= x <= width and 0 <= y <= height


def test_bars_are_as_long_as_their_share():
    bars = [charts.Bar("Base", 0.25, "base", (0.2, 0.31), 100), charts.Bar("Fine-tuned", 1.0, "finetuned")]
    svg = ET.fromstring(charts.bar_chart("Accuracy", [charts.Group("all & <every>", bars)]))
    widths = [float(r.attrib["width"]) for r in svg.iter("rect")]
    assert widths[0] == pytest.approx(widths[1] / 4, abs=0.06)
    assert "25.0\u00a0%" in svg.attrib["aria-label"]


def test_split_bar_shares():
    svg = ET.fromstring(charts.split_bar([("useful", 0.75), ("startup", 0.0), ("lost", 0.25)]))
    assert [float(r.attrib["width"]) for r in svg.iter("rect")] == [750, 250]


def test_tags_escape_everything_but_markup():
    made = tag(
        "p",
        "<b>",
        Markup("<i>ok</i>"),
        None,
        3,
        class_='x" onclick="y',
        hidden=True,
        title=None,
        aria_label="&",
    )
    assert made == '<p class="x&quot; onclick=&quot;y" hidden aria-label="&amp;">&lt;b&gt;<i>ok</i>3</p>'
    assert join("a<", tag("br")) == "a&lt;<br>"


def test_embedded_json_cannot_end_its_element():
    value = {"</script>": ["<!--", "]]>", "&amp;", "\u2028\u2029"]}
    made = script_json(value)
    assert json.loads(made) == value
    assert not set("<>&\u2028\u2029") & set(made)


def test_fences_hold_any_text():
    body = "a\n```\n````x\n`````\nb"
    fence = markdown.fence(body)
    first, last = fence.splitlines()[0], fence.splitlines()[-1]
    assert last == "``````" and first == last + "text"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.21, "4.2 s"), (42, "42 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (183_600, "2 d 3 h")],
)
def test_durations(seconds: float, said: str):
    assert text.duration(seconds) == said
