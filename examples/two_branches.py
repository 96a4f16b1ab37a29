"""Your own two-branch network, taken apart: python examples/two_branches.py."""

import numpy as np

from tinyflow import flow, fork, mark, nn, ops
from tinyflow.data import load_dataset, normalize


class Block(nn.Module):
    def __init__(self, channels, rng):
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, rng=rng)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        residual, shortcut = fork(x, "residual", "shortcut")  # two named edges into x
        f = ops.tanh(self.norm(self.conv(residual)))
        return ops.relu(mark(f + shortcut * 0.5, "H"))  # a shortcut at half strength


rng = np.random.default_rng(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1, rng=rng), *(Block(16, rng) for _ in range(4)),
    nn.GlobalAvgPool2d(), nn.Linear(16, 10, rng=rng),
)  # fmt: skip
data = load_dataset("shapes", None, "train", limit=64)
probe = flow.probe(model, normalize(data.images, data.mean, data.std), data.labels)
for t in flow.block_terms(probe.tape):
    shares = ", ".join(f"{name} {share:+z.2f}" for name, share in t.shares.items())
    print(f"block {t.name} ({t.kind} shortcut): {shares}; closure {t.closure:.1e}")
lengths = flow.spectrum(probe)
print(
    "residual branches crossed:",
    [f"{k}: {s:+z.3f}" for k, s in enumerate(lengths.shares)],
)
