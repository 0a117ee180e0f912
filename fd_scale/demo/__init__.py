"""The demo: real photographs, a small shipped teacher, the main job and a page that shows what the student learned.

photos      crops of photographs     run    the stages, in order
evaluate    the proof                page   what people see
"""
