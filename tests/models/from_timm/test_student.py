"""Any timm model as a student: timm's numbers and names, our interface."""

from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file

from fd_scale.errors import BadInput
from fd_scale.keyed import sample_keys
from fd_scale.models import init
from fd_scale.models.config import StudentConfig
from fd_scale.models.from_timm import as_tokens, last_norm
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.zoo import build_student
from fd_scale.parallel.recompute import apply_recompute

SIZE = 64
# plain with CLS, rotary with registers, convolutions, windows with tables
MODELS = ["test_vit", "vit_tiny_patch16_dinov3_qkvb", "test_convnext", "swin_tiny_patch4_window7_224"]
SMALL = ["test_vit", "test_convnext"]


def student(name: str, drop_path: float = 0.0, size: int = SIZE, seed: int | None = 0):
    model = build_student(StudentConfig(f"timm:{name}", drop_path=drop_path), size)
    if seed is not None:
        init.initialise_all(model, seed)
    return model


def theirs(model, seed: int = 0):
    torch.manual_seed(seed)
    return timm.create_model(model.name, **model.arguments).eval()


@pytest.mark.parametrize("name", MODELS)
def test_it_starts_as_timm_builds_it_from_that_seed_and_gives_timms_tokens(name):
    model = student(name, seed=5).eval()
    reference = theirs(model, seed=5)
    parameters, buffers = dict(reference.named_parameters()), dict(reference.named_buffers())
    assert all(torch.equal(tensor, parameters[key]) for key, tensor in model.named_parameters())
    assert all(torch.equal(tensor, buffers[key]) for key, tensor in model.named_buffers())
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = reference.forward_features(images)
        norm = last_norm(reference)
        expected = as_tokens(expected if norm is None else norm(expected), channels_last=model.channels_last)
        tokens = model(images)
    rows, columns = model.grid(SIZE, SIZE)
    assert torch.equal(tokens, expected)
    assert tokens.shape == (2, model.num_prefix_tokens + rows * columns, model.width)


@pytest.mark.parametrize("name", SMALL)
def test_values_depend_on_the_seed_but_not_on_the_order_or_type(name):
    model, other, half = (student(name, seed=None) for _ in range(3))
    half.bfloat16()
    for seed in (3, 4):
        init.initialise_all(model, seed)
        for key, parameter in reversed(list(other.named_parameters())):
            init.initialise(other, key, parameter, seed)
        init.initialise_all(half, seed)
        for exact, again, rounded in zip(*(m.parameters() for m in (model, other, half)), strict=True):
            assert torch.equal(exact, again)
            assert torch.equal(exact.bfloat16(), rounded)
    assert not torch.equal(model.get_parameter(_largest(model)), student(name, seed=3).get_parameter(_largest(model)))


def _largest(model) -> str:
    return max(model.named_parameters(), key=lambda item: item[1].numel())[0]


@pytest.mark.parametrize("name", SMALL)
def test_initialising_leaves_the_global_generator_alone(name):
    model = student(name, seed=None)
    before = torch.get_rng_state()
    init.initialise_all(model, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MODELS)
def test_recompute_changes_nothing(name, run):
    model = student(name, drop_path=0.5)
    images = torch.randn(4, 3, SIZE, SIZE)
    keyed = partial(model, keys=sample_keys(0, 0, range(4)))
    output, gradients = run(keyed, model, images)
    apply_recompute(model, "all")
    calls = []
    call = model.call_block
    model.call_block = lambda block, *values: (calls.append(block), call(block, *values))[1]
    again, gradients_again = run(keyed, model, images)
    assert calls == model.blocks()
    assert torch.equal(output, again)
    assert all(torch.equal(gradients[key], gradients_again[key]) for key in gradients)


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_belongs_to_the_sample(name):
    model = student(name, drop_path=0.5)
    images, keys = torch.randn(6, 3, SIZE, SIZE), sample_keys(0, 0, range(6))
    with torch.no_grad():
        whole = model(images, keys)
        parts = torch.cat([model(images[i : i + 2], keys[i : i + 2]) for i in (0, 2, 4)])
        torch.testing.assert_close(parts, whole)
        assert not torch.allclose(model(images, sample_keys(0, 1, range(6))), whole)
        assert not torch.allclose(model.eval()(images), whole)


def test_training_without_keys_is_refused():
    with pytest.raises(ValueError, match="needs a key for each sample"):
        student("test_vit", drop_path=0.5)(torch.randn(2, 3, SIZE, SIZE))


# Not all of timm keeps to it: EVA's attention reads the weight of its child `qkv`, for which DeepSpeed itself has a way
# (tests/parallel/test_timm_models.py trains one).
@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_parameters_are_used_only_where_sharding_gathers_them(name, gather_only_in_hooks):
    model = student(name).eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = model(images)
        gather_only_in_hooks(model)
        assert torch.equal(model(images), tokens)


@pytest.mark.parametrize(("name", "strides"), [("test_vit", (16,) * 4), ("test_convnext", (4, 8, 16, 32))])
def test_maps_have_the_strides_they_say(name, strides):
    model = student(name).eval()
    with torch.no_grad():
        maps = model.forward_maps(torch.randn(1, 3, SIZE, SIZE))
    assert model.strides == strides
    assert [tuple(m.shape[2:]) for m in maps] == [(SIZE // stride,) * 2 for stride in strides]
    assert maps[-1].shape[1] == model.width


@pytest.mark.parametrize("name", MODELS)
def test_weight_decay_spares_what_timm_spares(name):
    model = student(name, seed=None)
    reference = theirs(model)
    spared = reference.no_weight_decay() if hasattr(reference, "no_weight_decay") else set()
    assert model.no_weight_decay() == spared
    if name.startswith("swin"):
        assert {key for key, _ in model.named_parameters() if key.endswith("position_bias_table")} <= spared


def test_blocks_are_the_models_own_modules():
    model = student("swin_tiny_patch4_window7_224", seed=None)
    assert [len(stage.blocks) for stage in model.layers] == [2, 2, 6, 2]
    assert model.blocks() == [block for stage in model.layers for block in stage.blocks]
    assert model.get_submodule("layers.2.blocks.5") is model.blocks()[9]


@pytest.mark.parametrize("name", MODELS)
def test_no_drop_path_is_none_whatever_timms_default(name):
    keyless = student(name).train()(torch.randn(1, 3, SIZE, SIZE))  # drop path would ask for keys
    assert torch.isfinite(keyless).all()


@pytest.mark.parametrize("window", [4, 14])
def test_a_swin_takes_a_window_of_its_own_and_files_that_were_trained_in_it(window, tmp_path):
    name = "swin_tiny_patch4_window7_224"
    config = StudentConfig(f"timm:{name}", drop_path=0.0, window=window, weights=str(tmp_path / "w.safetensors"))
    torch.manual_seed(1)
    reference = timm.create_model(name, img_size=224, window_size=window, num_classes=0).eval()
    save_file(dict(reference.named_parameters()), tmp_path / "w.safetensors")
    model = build_student(config, 224).eval()
    load_weights(model, tmp_path / "w.safetensors")
    assert model.layers[0].blocks[0].attn.relative_position_bias_table.shape[0] == (2 * window - 1) ** 2
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model(images), reference.forward_features(images).flatten(1, 2))


def test_bf16_takes_images_of_any_type():
    model = student("test_vit").eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = model(images)
        tokens = model.bfloat16()(images)
    assert tokens.dtype == torch.bfloat16
    assert torch.cosine_similarity(tokens.float().flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("name", SMALL)
def test_it_starts_from_a_timm_checkpoint_of_another_size_with_or_without_classifier(name, tmp_path):
    torch.manual_seed(1)
    reference = timm.create_model(name)
    path = tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), path)
    model = build_student(StudentConfig(f"timm:{name}", drop_path=0.0, weights=str(path)), SIZE)
    report = load_weights(model, path)
    assert not report.missing
    for key, parameter in model.named_parameters():
        if parameter.shape == reference.get_parameter(key).shape:
            assert torch.equal(parameter, reference.get_parameter(key))
    save_file(dict(model.named_parameters()), tmp_path / "own.safetensors")
    again = student(name, seed=None)
    load_weights(again, tmp_path / "own.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_weights_of_another_model_are_refused(tmp_path):
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(BadInput, match="does not hold the weights of test_vit"):
        load_weights(student("test_vit", seed=None), tmp_path / "weights.safetensors")
    with pytest.raises(BadInput, match="are not of the student timm:test_vit"):
        load_weights(student("test_vit", seed=None), "timm:test_convnext.r160_in1k")


def test_a_parameter_that_the_model_does_not_have_is_refused():
    with pytest.raises(LookupError, match="adapter"):
        init.initialise(student("test_vit", seed=None), "adapter", torch.empty(3), 0)


def test_a_model_that_nobody_initialised_shows():
    assert student("test_vit", seed=None).eval()(torch.randn(1, 3, SIZE, SIZE)).isnan().any()


@pytest.mark.parametrize(
    ("fields", "size", "line"),
    [
        ({"name": "timm:vit_bse_patch16_224"}, 224, r"no model 'vit_bse_patch16_224'; near: .*vit_base_patch16_224"),
        ({"name": "timm:test_vit"}, 72, r"72 pixels are not divisible by its stride of 16; use 64 or 80"),
        ({"name": "timm:resnet18"}, 64, r"has batch norm, .* take a model with layer norm"),
        ({"name": "timm:coat_tiny"}, 64, r"cannot be a student at 64 px"),
        ({"name": "timm:convit_tiny", "drop_path": 0.1}, 64, r"cannot be keyed by sample: set student.drop_path=0"),
        ({"name": "timm:convmixer_768_32", "drop_path": 0.1}, 224, r"has no drop path: set student.drop_path=0"),
        (
            {"name": "timm:vit_base_patch16_clip_224.openai"},
            224,
            r"write timm:vit_base_patch16_clip_quickgelu_224.openai",
        ),
        ({"name": "timm:test_vit", "window": 7}, 64, r"timm:test_vit has no windows .* remove student.window"),
        ({"name": "timm:swin_tiny_patch4_window7_224", "window": 0}, 64, r"student window 0 is below 1; leave it out"),
        ({"name": "timm:test_vit", "position_bias": "shared"}, 64, r"student position_bias is a key of SwinV2 and ViT"),
        ({"name": "timm:test_vit", "drop_path": 1.0}, 64, r"drop_path 1.0 is not in \[0, 1\)"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(fields, size, line):
    with pytest.raises(BadInput, match=line) as error:
        build_student(StudentConfig(**{"drop_path": 0.0, **fields}), size)
    assert "\n" not in str(error.value)


def test_images_of_another_size_are_refused_where_timm_fixes_it():
    with pytest.raises(BadInput, match="96x96 px do not fit timm:test_vit, built for 64x64"):
        student("test_vit")(torch.randn(1, 3, 96, 96))
    with torch.no_grad():
        assert student("test_convnext").eval()(torch.randn(1, 3, 96, 96)).shape == (1, 9, 64)
