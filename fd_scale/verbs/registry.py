"""The verbs of `fd-scale`, which are also the functions of `fd_scale.api`.

A verb takes one line here and a module of its own in `fd_scale.verbs`; the command line, its help and the functions
from Python follow from that. The order of the lines is that of `fd-scale --help`.
"""
# ruff: noqa: I001

from fd_scale.verbs.pack import pack as pack
from fd_scale.verbs.index import index as index
from fd_scale.verbs.verify import verify as verify
from fd_scale.verbs.plan import plan as plan
from fd_scale.verbs.keys import keys as keys
from fd_scale.verbs.distill import distill as distill
from fd_scale.verbs.finetune import finetune as finetune
from fd_scale.verbs.launch import launch as launch
from fd_scale.verbs.status import status as status
from fd_scale.verbs.knn import knn as knn
from fd_scale.verbs.linear import linear as linear
from fd_scale.verbs.wise_ft import wise_ft as wise_ft
from fd_scale.verbs.export import export as export
from fd_scale.verbs.convert import convert as convert
from fd_scale.verbs.teachers import teachers as teachers
from fd_scale.verbs.fetch_teacher import fetch_teacher as fetch_teacher
from fd_scale.verbs.demo import demo as demo
