"""Whichever library multiplies: products, gradients and layers equal those of torch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from deepscaler.cpu import matmul as module
from deepscaler.cpu.matmul import OneDnnLinear, has_onednn, matmul, use_onednn, weight_gradient
from deepscaler.training.logprobs import token_logprobs


@pytest.fixture(params=["onednn", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    onednn = request.param == "onednn"
    if onednn and not has_onednn():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(module, "prefers_onednn", lambda: onednn)
    return request.param


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 3, 5), (17, 5, 3), (64, 32, 32)])
def test_products_and_weight_gradients_equal_those_in_float64(library, rows, inputs, outputs):
    torch.manual_seed(0)
    x, weight, bias, grad = (torch.randn(*s) for s in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)))
    expected = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(matmul(x, weight, bias).double(), expected, atol=1e-5, rtol=1e-5)
    expected = grad.double().T @ x.double()
    torch.testing.assert_close(weight_gradient(grad, x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_converted_layer_has_the_same_values_gradients_and_state(library, bias):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8, bias=bias), nn.SiLU(), nn.Linear(8, 4, bias=bias))
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    assert (type(fast[0]) is OneDnnLinear) == (library == "onednn")
    assert fast.state_dict().keys() == plain.state_dict().keys()
    results = []
    for layers in (plain, pickle.loads(pickle.dumps(fast))):
        x = torch.arange(30.0).view(1, 5, 6).div(30).requires_grad_()
        out = layers(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in layers.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_no_completion_token_gives_no_logprob(library):
    hidden = torch.zeros(0, 4, requires_grad=True)
    values, _ = token_logprobs(hidden, torch.ones(7, 4), torch.zeros(0, dtype=torch.long), temperature=1.0)
    values.sum().backward()
    assert values.shape == (0,)
