"""What is printed, and what a notebook shows: read as a reader reads it."""

import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

import tinyflow
from models import build_model, count_parameters
from tinyflow import Tape, Tensor, data, display, flow, fork, nn, optim
from tinyflow.data import Loader, load_dataset, normalize


def net(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, rng=rng),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
        head=nn.Linear(8, 10, rng=rng),
    )


class Cells(html.parser.HTMLParser):
    """The cells of a table, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = tag

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


# --- tensors and the tape -------------------------------------------------------------


def test_a_tensor_shows_its_array():
    x = Tensor(np.arange(4, dtype=np.float32).reshape(2, 2), name="x")
    assert repr(x) == (
        "Tensor([[0., 1.],\n        [2., 3.]], shape=(2, 2), dtype=float32, name='x')"
    )
    (handle,) = fork(Tensor([1], name="n"), "left")
    assert repr(handle) == (
        "Tensor([1], shape=(1,), dtype=int64, name='n', label='left')"
    )
    large = repr(Tensor(np.zeros((100, 100)), requires_grad=True))
    assert "...," in large and large.count("\n") < 10
    assert large.endswith("name='leaf', requires_grad=True)")
    images = repr(Tensor(np.zeros((64, 3, 32, 32))))
    assert images.count("0.") == 16 and images.count("\n") < 25  # two of each axis
    assert repr(Tensor(np.zeros((1, 2, 50)))).count("0.") == 100  # few are shown whole
    assert repr(Tensor(np.zeros((1, 1, 101)))).count("0.") == 2
    assert repr(Tensor(2.5)) == "Tensor(2.5, shape=(), dtype=float64, name='leaf')"


def test_edges_nodes_and_tapes_say_what_came_back():
    x = Tensor([3.0, 4.0], requires_grad=True, name="x")
    with Tape(retain="edges") as tape:
        left, right = fork(x, "left", "<right>")
        loss = (left * 2 + right).sum()
    assert (
        repr(tape.edges(x)) == "[Edge(x -> mul[0] (left)), Edge(x -> add[1] (<right>))]"
    )
    tape.backward(loss)
    root = np.sqrt(2)
    assert (
        repr(tape.edge(x, "left")) == f"Edge(x -> mul[0] (left), norm={2 * root:.4g})"
    )
    assert repr(tape["mul"]) == f"Node(mul, shape=(2,), dtype=float64, norm={root:.4g})"
    assert repr(tape) == "Tape(retain='edges', 3 operators, last 'sum')"
    assert repr(Tape()) == "Tape(retain='leaves', 0 operators)"
    heading, *rows = Cells(tape.edges(x)._repr_html_()).rows
    assert heading[:2] == ["producer", "consumer"] and rows == [
        ["x", "mul", "0", "left", f"{2 * root:.3g}"],
        ["x", "add", "1", "<right>", f"{root:.3g}"],
    ]
    _, *rows = Cells(tape._repr_html_()).rows
    assert rows == [
        ["0", "mul", "mul", "(2,)", "1", f"{root:.3g}"],
        ["1", "add", "add", "(2,)", "1", f"{root:.3g}"],
        ["2", "sum", "sum", "()", "0", "1"],
    ]
    assert set(tape._ipython_key_completions_()) == {"x", "mul", "add", "sum"}


def test_numbers_stand_to_the_right():
    table = display.Table("t", ("word", "n"), [("a", 1), ("<b>", 1000)])
    assert repr(table) == "t\nword      n\na         1\n<b>   1,000"
    aligned = re.findall(r"text-align:(\w+)", table._repr_html_())
    assert aligned == ["left", "right"] * 2


def test_a_long_tape_leaves_out_its_middle():
    x = y = Tensor(1.0, requires_grad=True)
    with Tape() as tape:
        for _ in range(display.MOST):
            y = y + x
    assert "more" not in tape._repr_html_()
    with tape:
        for _ in range(7):
            y = y + x
    _, *rows = Cells(tape._repr_html_()).rows
    assert len(rows) == display.MOST + 1 and rows[0][0] == "0"
    assert rows[display.MOST // 2][1] == "... 7 more: see tape.nodes"
    assert rows[display.MOST // 2 - 1][0] == "49" and rows[-1][0] == "106"
    assert rows[display.MOST // 2 + 1][0] == "57" and rows[0][5] == ""  # not kept


# --- modules --------------------------------------------------------------------------

TREE = """\
Sequential: 330 parameters
name    module             holds                                         parameters
        Sequential()                                                            330
  0     Conv2d(padding=1)  weight (8, 3, 3, 3); bias (8,)                       224
  1     BatchNorm2d()      weight, bias, running_mean, running_var (8,)          16
  2     ReLU()                                                                    0
  3     GlobalAvgPool2d()                                                         0
  head  Linear()           weight (10, 8); bias (10,)                            90"""


def test_a_module_is_a_tree_with_shapes_and_counts():
    model = net()
    assert repr(model) == TREE and repr(model.summary()) == TREE
    assert Cells(model._repr_html_()).rows[2][:2] == ["  0", "Conv2d(padding=1)"]
    model[0].weight.requires_grad = False
    assert repr(model).startswith("Sequential: 330 parameters, 216 of them frozen\n")
    assert len(model) == 5 and model[-1] is model.head
    norm = nn.BatchNorm2d(2, eps=1e-5 * 1.0, momentum=0.5, affine=False)
    assert norm.summary().rows[0][1] == "BatchNorm2d(momentum=0.5)"


def test_a_summary_with_a_shape_runs_the_network_and_leaves_it_as_it_was():
    model = net()
    model[1].eval()
    before = {name: b.copy() for name, b in model.named_buffers()}
    table = model.summary((2, 3, 6, 5))
    outputs = [row[-1] for row in table.rows]
    assert outputs == ["(2, 10)", *["(2, 8, 6, 5)"] * 3, "(2, 8)", "(2, 10)"]
    assert [m.training for m in model] == [True, False, True, True, True]
    assert model.training
    for name, b in model.named_buffers():
        np.testing.assert_array_equal(b, before[name])
    assert all(p.grad is None for p in model.parameters())
    two = Both()
    assert [row[-1] for row in two.summary((1, 2)).rows] == ["", "(1, 3)", ""]
    model.to(dtype="float64")
    assert model.summary((1, 3, 4, 4)).rows[0][-1] == "(1, 10)"


class Both(nn.Module):
    """Returns no tensor, and has a child that is not used."""

    def __init__(self):
        self.used = nn.Linear(2, 3, rng=None)
        self.spare = nn.Linear(9, 9, rng=None)

    def forward(self, x):
        return x, self.used(x)


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "densenet121", "vgg11"])
def test_counts_add_up(name):
    model = build_model(name, seed=None)
    table = model.summary()
    total = count_parameters(model)
    assert table.title == f"{name}: {total:,} parameters" and table.rows[0][3] == total
    first = [row[3] for row in table.rows if len(row[0]) - len(row[0].lstrip()) == 2]
    assert sum(first) == total
    assert len(table.rows) == len(list(model.named_modules()))


def test_a_shared_part_is_shown_once_and_counted_once():
    shared = nn.Linear(2, 2, rng=None)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.ReLU()))
    assert [row[0] for row in model.summary().rows] == ["", "  0", "  1", "    1"]
    assert model.summary().title == "Sequential: 6 parameters"


# --- the rest -------------------------------------------------------------------------


def test_optimisers_data_sets_and_loaders_fit_on_a_line():
    sgd = optim.SGD(net().parameters(), lr=0.1, momentum=0.9)
    assert repr(sgd) == (
        "SGD(6 parameters, lr=0.1, weight_decay=0.0, momentum=0.9, dampening=0.0, "
        "nesterov=False)"
    )
    adam = optim.AdamW(net().parameters())
    assert "AdamW(6 parameters, lr=0.001, " in repr(adam)
    assert "betas=(0.9, 0.999)" in repr(adam)
    data = load_dataset("shapes", limit=30)
    assert repr(data) == (
        "Dataset(shapes: 30 images of 3x32x32, 10 classes: disc, ring, square, frame, "
        "triangle, cross, star, crescent, bars, corner)"
    )
    assert repr(Loader(data, 8, seed=3)) == (
        f"Loader({data!r}, batch_size=8, shuffle=True, augment=False, seed=3, "
        "drop_last=False, next_epoch=0)"
    )


def test_the_rooms_are_open_and_list_what_is_public():
    for name in dir(tinyflow):
        assert getattr(tinyflow, name) is not None
    assert {"optim", "data", "flow", "testing", "train", "grad"} <= set(dir(tinyflow))
    rooms = (nn, optim, tinyflow.ops, data, flow, tinyflow.train, tinyflow.testing)
    for room in rooms:
        assert dir(room) == sorted(room.__all__)
        assert all(hasattr(room, name) for name in dir(room))
    for room, name, said in (
        (tinyflow, "no_grad", "without a `with Tape"),
        (nn, "ModuleDict", "in a dictionary, self.layers"),
        (data, "DataLoader", r"data\.Loader\(dataset, batch_size\)"),
        (optim, "lr_scheduler", r"assign optimizer\.lr"),
        (tinyflow.ops, "cat", r"ops\.concat\(tensors, dim\)"),
        (net(), "cuda", r"Sequential has no 'cuda': model\.to\('cuda'\)"),
        (net(), "nothing", "Sequential has no 'nothing'$"),
    ):
        with pytest.raises(AttributeError, match=said):
            getattr(room, name)


# --- what the instrument found --------------------------------------------------------


@pytest.fixture(scope="module")
def probes():
    data = load_dataset("shapes", limit=4)
    images = normalize(data.images, data.mean, data.std)
    return [
        flow.probe(build_model(name), images, data.labels)
        for name in ("resnet20", "densenet121")
    ]


def test_a_figure_shows_itself_without_pyplot(probes, monkeypatch):
    """As a picture of the size the caption was made for, whatever the user has set."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 40)
    residual, dense = probes
    sizes = set()
    for found in (
        flow.block_terms(residual.tape),
        flow.spectrum(residual),
        flow.dense_terms(dense.tape)[0],
    ):
        figure = flow.figure(found, "mine", "four images")
        assert [t.get_text() for t in figure.texts][1] == "four images"
        assert figure.texts[0].get_text().startswith("mine")
        assert figure.canvas.manager is None  # of pyplot's, which would keep it
        picture = Image.open(io.BytesIO(figure._repr_png_()))
        sizes.add(picture.size)
        assert np.asarray(picture.convert("L")).std() > 10  # something is drawn
    assert sizes == {(960, 540)}
    assert matplotlib.rcParams["font.size"] == 40


def test_a_table_is_printed_by_its_name(probes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    residual, dense = probes
    terms = flow.block_terms(residual.tape)
    lines = repr(flow.table(terms)).split("\n")
    assert lines[0] == "Blocks" and any(
        f"{terms[0].ratio:.2f}" in x for x in lines[4:6]
    )
    assert repr(flow.table(flow.spectrum(residual), "Mine")).startswith("Mine\n")
    assert "denseblock1" in repr(flow.table(flow.dense_terms(dense.tape)))


@pytest.mark.parametrize("show", [flow.figure, flow.table])
@pytest.mark.parametrize("found", [[], 3, None, "terms"])
def test_what_has_no_figure_and_no_table(show, found):
    with pytest.raises(
        TypeError, match=r"^there is a (figure|table) of what block_term"
    ):
        show(found)


def test_a_probe_is_a_line(probes):
    said = repr(probes[0])
    assert said.startswith(
        f"Probe(loss={probes[0].loss.item():.4f}, images of shape (4, 3"
    )
    assert "\n" not in said
