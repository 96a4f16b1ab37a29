"""Methods of a Tensor: the operators they name, and words for what is not there."""

import numpy as np
import pytest

from tinyflow import Tape, TapeError, Tensor, fork, ops

A = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.75]])
SAME = {  # in PyTorch's spelling, which is ours
    "add": lambda x: x.add(x * 2),
    "sub": lambda x: x.sub(3.0),
    "mul": lambda x: x.mul(x),
    "div": lambda x: x.div(4.0),
    "neg": lambda x: x.neg(),
    "pow": lambda x: x.pow(2),
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x).log(),
    "sqrt": lambda x: (x * x).sqrt(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "matmul": lambda x: x.matmul(x.T),
    "T": lambda x: x.T,
    "sum": lambda x: x.sum(),
    "sum over rows": lambda x: x.sum(0, keepdim=True),
    "mean": lambda x: x.mean(dim=1),
    "amax": lambda x: x.amax(1),
    "reshape": lambda x: x.reshape(3, -1),
    "flatten": lambda x: x.flatten(),
    "permute": lambda x: x.permute(1, 0),
    "transpose": lambda x: x.transpose(0, 1),
    "split": lambda x: x.split(2, 1)[0],
    "3 + x": lambda x: 3.0 + x,
    "2 * x": lambda x: 2.0 * x,
    "1 - x": lambda x: 1.0 - x,
    "2 / x": lambda x: 2.0 / x,
}


@pytest.mark.parametrize("name", SAME)
def test_methods_do_what_pytorchs_do(name):
    torch = pytest.importorskip("torch")
    t = torch.tensor(A, requires_grad=True)
    expected = SAME[name](t)
    weights = np.arange(1.0, expected.numel() + 1).reshape(expected.shape)
    (expected * torch.tensor(weights)).sum().backward()
    x = Tensor(A, requires_grad=True)
    with Tape() as tape:
        y = SAME[name](x)
    tape.backward(y, weights)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_what_has_no_gradient_answers_with_arrays_and_numbers():
    x = Tensor(A)
    assert x.size == x.numel() == 6 and len(x) == 2 and Tensor(3.0).size == 1
    assert x.argmax(1).tolist() == [2, 0] and x.argmax(-1).tolist() == [2, 0]
    assert (
        x.device == "cpu"
        and x.argmax() == 3
        and x.numpy() is x.data
        and x.tolist() == A.tolist()
    )
    assert (x.argmax(1) == np.array([2, 1])).mean() == 0.5
    with pytest.raises(ValueError, match=r"argmax: dim 2 is out of range"):
        x.argmax(2)


def test_what_is_detached_sends_nothing_back():
    x = Tensor([2.0], requires_grad=True)
    with Tape() as tape:
        y = x * x
        loss = (y.detach() * x).sum()
    tape.backward(loss)
    assert y.detach().data is y.data and x.grad.tolist() == [4.0]  # of x³ it were 12


def test_a_handle_keeps_its_label_through_a_method():
    x = Tensor(A, requires_grad=True)
    (handle,) = fork(x, "left")
    with Tape() as tape:
        handle.relu()
    assert tape.edge(x, "left").consumer == "relu"


def test_backward_is_the_active_tapes():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with Tape():
        y = x * x
        y.backward(np.array([1.0, 10.0]))
        y.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]  # set, not added to
    with pytest.raises(TapeError, match=r"write tape\.backward\(loss\)$"):
        y.backward()
    with Tape(), pytest.raises(TapeError, match="is not on this tape"):
        y.backward()


@pytest.mark.parametrize(
    "written, said",
    [
        (lambda x: x.view(3), r"a Tensor has no 'view': x.reshape\(shape\)"),
        (lambda x: x.add_(1), "a Tensor has no 'add_': nothing writes to an array the"),
        (lambda x: x.cuda(), "'cuda': .*Tensor"),
        (lambda x: x.max(), r"'max': x.amax\(dim\), and x.argmax"),
        (lambda x: x.register_hook(print), r"'register_hook': .*tape.edges\(x\)"),
        (lambda x: x.requires_grad_(), "'requires_grad_': x.requires_grad = True"),
        (lambda x: x.nothing, "a Tensor has no 'nothing'$"),
        (lambda x: x.nothing_, "nothing writes"),
        (lambda x: x.__nothing__, "a Tensor has no '__nothing__'$"),
    ],
)
def test_what_is_not_there_says_what_to_write(written, said):
    with pytest.raises(AttributeError, match=said) as error:
        written(Tensor(A))
    assert "\n" not in str(error.value)


def test_what_python_calls_something_else():
    x = Tensor(A)
    with pytest.raises(TypeError, match=r"write x\.shape for the shape, x\.shape\[0\]"):
        x.size(0)
    with pytest.raises(TypeError, match="a Tensor is not written to"):
        x[0] = 1.0
    assert not hasattr(x, "mask") and getattr(x, "view", None) is None


def test_every_operator_of_one_tensor_that_is_no_layer_is_a_method():
    methods = {n for n in ops.__all__ if getattr(Tensor, n, None) is getattr(ops, n)}
    layers = {"batch_norm", "conv2d", "cross_entropy", "dropout", "linear", "pad"}
    layers |= {"bce_with_logits", "mse_loss", "nll_loss"}
    layers |= {"channel_shuffle"}
    layers |= {"local_response_norm", "group_norm", "layer_norm", "dropout2d"}
    pools = {"avg_pool2d", "global_avg_pool2d", "max_pool2d"}
    pools |= {"adaptive_avg_pool2d", "adaptive_max_pool2d"}
    activations = {"hardswish", "relu6", "silu", "elu", "gelu", "hardsigmoid"}
    activations |= {"leaky_relu", "softplus"}
    spelt = {"concat", "getitem", "where", "stack"}
    assert set(ops.__all__) - methods == layers | pools | activations | spelt
