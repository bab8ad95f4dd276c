"""CLIP: `teacher_files` (found and hashed), `clip_teacher` (loaded), `passes` (a batch through it),
`dense_tokens`, `text_embeddings`, `teacher_precision`.
"""
