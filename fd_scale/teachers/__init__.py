"""Frozen teachers: normalised images in, the tokens of the teacher's last block after its own final norm out.

`build_teacher` is the door, `outline_teacher` the same without weights; `sources` knows where weights come from,
`teacher` what the models of each family lack.
"""

from fd_scale.teachers.sources import TeacherConfig, build_teacher, outline_teacher
from fd_scale.teachers.teacher import Teacher

__all__ = ["Teacher", "TeacherConfig", "build_teacher", "outline_teacher"]
