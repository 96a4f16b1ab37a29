"""Nothing on a page lies on anything else, however many networks and terms."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import models
from tinyflow import flow
from tinyflow.flow.compare import Point, Summary
from tinyflow.flow.show import figures
from tinyflow.flow.show.figures_blocks import along_depth, terms


def overlaps(figure):
    """Pairs of texts, titles and legends of a figure that share more than an edge."""
    with figures.style():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw_without_rendering()
        parts = [*figure.texts, *figure.legends]
        for axes in figure.axes:
            parts += [axes.title, axes.get_legend(), *axes.get_xticklabels()]
        shown = [p for p in parts if p is not None and p.get_visible()]
        boxes = [(p, p.get_window_extent(renderer)) for p in shown]
    boxes = [(p, box) for p, box in boxes if box.width > 1 and box.height > 1]
    page = figure.bbox
    for part, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1, part
        assert page.y0 <= box.y0 and box.y1 <= page.y1, part
    return [
        (a, b)
        for (a, one), (b, other) in combinations(boxes, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]


def summary(name, count):
    points = [
        Point(f"block{i}", 0.1 * 1.3**i, (2, 8 << (4 * i // count), 4, 4))
        for i in range(count)
    ]
    return Summary(name, "initial weights", "shapes", 1, 2.3, [], [], 0.0, points)


@pytest.mark.parametrize("networks", [1, 4, 5, 6, 12, 19])
def test_any_number_of_networks_has_room_for_its_names(networks):
    names = ["inception_resnet_v2", "preact_resnet110", "vgg19"] * 7
    found = [summary(n, 5 + 7 * i) for i, n in enumerate(names[:networks])]
    figure = along_depth(found, "shapes, 10 classes · float64 · seed 0 · batch of 16")
    assert overlaps(figure) == []
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == names[:networks]


@pytest.mark.parametrize("name", ["inception_v3", "squeezenet1_1", "se_resnet20"])
def test_any_number_of_terms_has_room_for_its_legend(name):
    network = models.find(name)
    side = max(32, network.smallest)
    model = models.build_model(name, image_size=side, seed=1).to(dtype="float64")
    rng = np.random.default_rng(0)
    probe = flow.probe(model, rng.standard_normal((2, 3, side, side)), np.array([1, 7]))
    blocks = flow.block_terms(probe.tape)
    figure = terms(blocks, name, "initial weights · shapes · float64")
    assert overlaps(figure) == []
    labels = dict.fromkeys(t for b in blocks for t in b.shares)
    handles = figure.axes[0].get_legend_handles_labels()[0][1:]
    looks = {(h.get_color(), h.get_marker()) for h in handles}
    assert len(looks) == len(handles) == len(labels)
