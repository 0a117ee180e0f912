import torch

from fd_scale.models.config import StudentConfig
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.train.config import OptimConfig
from fd_scale.train.optimizer import adamw, parameter_groups


def undecayed(name: str) -> set[str]:
    with torch.device("meta"):
        model = StudentWithHeads(build_student(StudentConfig(name), 224), 512)
    names = {id(parameter): n for n, parameter in model.named_parameters()}
    decayed, kept = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    return {names[id(parameter)] for parameter in kept["params"]}


def test_swin_leaves_out_norms_biases_position_mlp_and_logit_scale():
    kept = undecayed("swin_v2_tiny")
    assert {
        "student.layers.0.blocks.0.attn.logit_scale",
        "student.layers.0.blocks.0.attn.cpb_mlp.0.weight",
        "student.layers.0.blocks.0.attn.q_bias",
        "student.layers.0.blocks.0.norm1.weight",
        "student.norm.bias",
        "head.bias",
    } <= kept
    assert "student.layers.0.blocks.0.attn.qkv.weight" not in kept
    assert "head.weight" not in kept


def test_vit_decays_its_bias_table_and_not_its_class_token():
    kept = undecayed("vit_small")
    assert "student.cls_token" in kept
    assert not any("relative_position_bias_table" in name for name in kept)


def test_adamw_has_the_published_settings():
    optimizer = adamw(OptimConfig())([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    defaults = optimizer.defaults
    assert (defaults["betas"], defaults["eps"]) == ((0.9, 0.999), 1e-8)
