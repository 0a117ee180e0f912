"""The demo: real photographs, a small shipped teacher, the main job and a page that shows what the student learned."""
