"""Frozen teachers: normalised images in, the tokens of the teacher's last block after its own final norm out.

sources     the door: one spec to a teacher, with weights (`build_teacher`) or without (`outline_teacher`)
teacher     one layout of tokens; what the models of each family lack
our_models  models that timm has no name for    files     files that say what they are
staging     a teacher as one such file          listing   which teachers there are
config      what a configuration says of one; imports no torch
"""
