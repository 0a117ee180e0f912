"""The functions of `fd_scale.api`: what callers rely on, and how the command line follows from them."""

import dataclasses
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import fd_scale
from fd_scale import api
from fd_scale.cli import parse, run_verb
from fd_scale.errors import BadInput
from fd_scale.verbs.job import named
from fd_scale.verbs.verb import jobs, registered

SIGNATURES = {
    "pack": "(source, out, *, shard_samples=1000, seed=0, workers=None, short_side=None, skip_bad=False, only=None, "
    "force=False)",
    "index": "(folder, *, workers=None, skip_bad=False)",
    "verify": "(folder, *, workers=None)",
    "plan": "(config, overrides=(), *, world=1)",
    "keys": "(task=None, *, markdown=False)",
    "distill": "(config, overrides=())",
    "finetune": "(config, overrides=())",
    "launch": "(command, *, nproc=None, hostfile=None, master_port=None, nnodes=None, node_rank=None, "
    "master_addr=None, lost_after=60.0)",
    "knn": "(config, overrides=())",
    "linear": "(config, overrides=())",
    "wise_ft": "(first, second, validation, *, alphas=None, out=None, batch=64, workers=4, crop=None)",
    "export": "(run, out, *, step=None, ema=False, dtype='fp32', classifier=False)",
    "convert": "(source, out, *, student=None, image_size=None, window=None, pretrained_window=None, key=None, "
    "neutral_gaps=False, licence=None)",
    "teachers": "(pattern='*')",
    "fetch_teacher": "(spec, out, *, pixels=None, key=None)",
    "demo": "(out='runs/demo', *, images=None, teacher='demo')",
}
"""Callers outside rely on them: a parameter may be added, none may be renamed, moved or given another default."""


def without_annotations(function: typing.Callable) -> str:
    signature = inspect.signature(function)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_keep_their_parameters_and_defaults(name):
    assert without_annotations(getattr(api, name)) == SIGNATURES[name]


def test_every_function_of_the_api_is_a_verb_and_says_what_it_returns():
    assert [verb.function for verb in registered()] == [getattr(api, name) for name in api.__all__]
    for name in api.__all__:
        assert inspect.signature(getattr(api, name)).return_annotation not in (inspect.Signature.empty, typing.Any)


@pytest.mark.parametrize("verb", [verb for verb in registered() if not verb.command_line], ids=lambda verb: verb.name)
def test_a_verb_without_options_calls_its_function_with_its_own_defaults(verb):
    """So a default is stated in one place, the function."""
    parameters = verb.parameters.values()
    given = vars(parse([verb.name, *("word" for parameter in parameters if parameter.default is parameter.empty)]))
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            assert given[parameter.name] == parameter.default


def test_what_the_command_line_says_of_a_parameter_is_in_the_documentation_of_the_function():
    text = inspect.getdoc(api.wise_ft)
    assert text.startswith("Measure the accuracy of mixtures")
    assert "\nArgs:\n    first: file written by `fd-scale export --classifier`: alpha 0.\n" in text
    assert "\n\nReturns:\n    One entry for each alpha" in text
    assert str(inspect.signature(api.teachers)) == "(pattern: str = '*') -> str"


def test_words_become_arguments_of_the_types_of_the_function():
    given = parse(["convert", "IN", "OUT", "--pretrained-window", "8", "8", "--neutral-gaps", "--window", "16"])
    assert (given.source, given.out, given.pretrained_window, given.window) == ("IN", "OUT", [8, 8], 16)
    assert given.neutral_gaps is True
    given = parse(["wise-ft", "A", "B", "C", "D", "--alphas", "0", "0.5"])
    assert (given.first, given.second, given.validation, given.alphas) == ("A", "B", ["C", "D"], [0.0, 0.5])
    assert parse(["teachers"]).pattern == "*"
    assert parse(["teachers", "*dino*"]).pattern == "*dino*"
    with pytest.raises(BadInput, match="invalid choice: 'fp8'"):
        parse(["export", "RUN", "OUT", "--dtype", "fp8"])


def test_a_verb_prints_what_its_function_returns(image_folder, tmp_path, capsys):
    run_verb(parse(["pack", str(image_folder), str(tmp_path / "shards"), "--shard-samples", "30", "--workers", "1"]))
    assert capsys.readouterr().out.startswith("48 images")
    run_verb(parse(["verify", str(tmp_path / "shards"), "--workers", "1"]))
    assert capsys.readouterr().out == f"{tmp_path / 'shards'} is whole\n"


@pytest.mark.parametrize("name", jobs())
def test_every_job_names_a_configuration_and_what_runs_and_plans_it(name):
    job = jobs()[name]
    config = job.config_type()
    assert dataclasses.is_dataclass(config)
    for reference in filter(None, (job.run, job.plan)):
        assert typing.get_type_hints(named(reference))["config"] is config


def test_the_package_offers_its_main_functions():
    assert fd_scale.distill is api.distill
    assert fd_scale.finetune is api.finetune
    assert {"distill", "finetune"} <= set(dir(fd_scale))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fd_scale.nonsense  # noqa: B018


def test_no_module_has_the_name_of_a_function_of_the_package():
    """Importing `fd_scale.distill` as a module would bind that name anew."""
    package = Path(fd_scale.__file__).parent
    modules = {path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")}
    assert "objective" in modules
    assert not modules & {"load", "distill", "finetune", "diagnose"}


@pytest.mark.real_start
def test_importing_the_api_is_cheap_and_the_package_imports_nothing_of_ours():
    code = (
        "import sys, fd_scale; print([m for m in sys.modules if m.startswith('fd_scale.')]); "
        "import fd_scale.api; print([m for m in ('torch', 'numpy', 'pydantic', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
