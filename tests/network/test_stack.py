"""A stack trains every member as torch's own layers would train it alone."""

from typing import Any, get_args

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tasks.network import stack as network_stack
from tasks.network.architecture import Block, DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.stack import MemberStack


@st.composite
def cases(draw: st.DrawFn) -> tuple[DSCConfig, int]:
    """Draw the configuration of a member, and how many bars it sees beyond its context."""
    padding = draw(st.sampled_from(["history", "history", "zeros"]))
    config = DSCConfig(
        input_features=draw(st.integers(1, 4)),
        hidden_channels=draw(st.integers(1, 6)),
        num_blocks=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(2, 4)),
        kernel_size=draw(st.sampled_from([3, 5])),
        window=draw(st.integers(1, 9)),
        padding=padding,  # type: ignore[arg-type]  # sampled from its values
        block=draw(st.sampled_from(get_args(Block))),
        newest_step=draw(st.booleans()),
        linear_bypass=draw(st.booleans()),
    )
    return config, draw(st.integers(1, 7)) if padding == "history" else 0


def of_torchs_layers(model: DSCTradingModel, z: Tensor, keep: Tensor) -> Tensor:
    """Return the logits (K, T', b) of scaled inputs (T, b, F) by the network's own modules; keep is (H, C, b)."""
    h, skips = model.stem(z.permute(1, 2, 0)), []
    for layer in model.blocks:
        h = layer(h)
        skips.append(h)
    s = model.skip_conv(torch.cat([one[:, :, -h.shape[2] :] for one in skips], dim=1))
    window = model.config.window
    heads = [functional.avg_pool1d(s, window, 1), s[:, :, window - 1 :]][: len(keep)]
    inputs = torch.cat([head * own.T[:, :, None] for head, own in zip(heads, keep, strict=True)], dim=1)
    logits = model.classifier[3](inputs.transpose(1, 2))
    if model.bypass is not None:
        logits = logits + model.bypass(z[model.config.context - 1 :].transpose(0, 1))
    return torch.as_tensor(logits).permute(2, 1, 0)


@torch.no_grad()
def alive(model: DSCTradingModel) -> DSCTradingModel:
    """Let no channel fall silent: without variance each norm makes 300 times as much of a rounding error."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.bias.abs_()
            norm.weight.add_(0.3 * norm.weight.sign())
    return model.double()  # only a formula can differ


@settings(deadline=None, max_examples=60)
@given(case=cases(), members=st.integers(1, 3), segments=st.integers(2, 4), seed=st.integers(0, 2**20))
def test_step_of_a_stack_is_that_of_every_member_through_torchs_own_layers(
    random_model: Any, case: tuple[DSCConfig, int], members: int, segments: int, seed: int
) -> None:
    config, extra = case
    models = [alive(random_model(config, seed + number)) for number in range(members)]
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(members, config.context + extra, segments, config.input_features, generator=generator).double()
    keep = torch.rand(members, 1 + config.newest_step, config.hidden_channels, segments, generator=generator).double()
    weight = torch.randn(members, config.num_classes, extra + 1, segments, generator=generator).double()
    stack = MemberStack(models)
    logits = stack.logits(z, keep)
    assert logits.shape == weight.shape
    (logits * weight).sum().backward()
    copies = [random_model(config, seed) for _ in models]
    stack.write(stack.trained, [copy.double() for copy in copies])
    rows = torch.split(stack.trained.weights.grad, 1)  # type: ignore[arg-type]  # backward made it
    for number, (model, copy) in enumerate(zip(models, copies, strict=True)):
        model.train()
        own = of_torchs_layers(model, z[number], keep[number])
        torch.testing.assert_close(logits[number], own, atol=1e-9, rtol=1e-9)
        (own * weight[number]).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(rows[number][0], gradient, atol=1e-7, rtol=1e-7)
        for name, value in model.state_dict().items():  # its weights untouched, its running statistics moved
            if name.startswith(("stem", "blocks")) and value.is_floating_point():
                torch.testing.assert_close(copy.state_dict()[name], value, atol=1e-9, rtol=1e-9)


def test_member_learns_nothing_from_what_the_others_are_told(random_model: Any) -> None:
    config = DSCConfig(input_features=2, hidden_channels=4, num_blocks=2, window=3, linear_bypass=True)
    z = torch.randn(3, config.context, 2, 2, generator=torch.Generator().manual_seed(1))
    keep = torch.ones(3, 1, 4, 2)
    gradients = []
    for others in (1.0, 50.0):
        stack = MemberStack([random_model(config, number) for number in range(3)])
        scales = torch.tensor([others, 1.0, others]).view(3, 1, 1, 1)
        stack.logits(z * scales, keep).square().sum().backward()
        gradients.append(stack.trained.weights.grad)
    one, other = gradients
    assert one is not None
    assert other is not None
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], other[0])


def test_bias_before_a_normalisation_is_left_at_zero(random_model: Any) -> None:
    config = DSCConfig(input_features=2, hidden_channels=4, num_blocks=1, window=3)
    model = random_model(config)
    MemberStack([model])
    stem: nn.Conv1d = model.stem[0]
    assert stem.bias is not None
    assert stem.bias.tolist() == [0.0] * 4


def test_depthwise_gradient_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 9, generator=generator).double().requires_grad_()
    taps = torch.randn(2, 3, 3, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, taps: network_stack._ShiftedSum.apply(x, taps, 2), (x, taps))
