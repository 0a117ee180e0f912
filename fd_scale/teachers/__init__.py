"""Frozen teachers: normalised images in, the tokens of the teacher's last block after its own final norm out.

`sources.build_teacher` is the door, `sources.outline_teacher` the same without weights; `teacher` knows what the models
of each family lack, `config` what a configuration says of a teacher.
"""
