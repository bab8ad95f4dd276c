"""Teachers: `teacher_protocol` (what each of them does), `open_teacher` (opens any). CLIP:
`teacher_files` (found and hashed), `teacher_config` (its configuration, checked),
`teacher_size` (against that of the weights), `teacher_names` (open_clip's models
and tags, and which to offer),
`clip_teacher` (loaded) with `teacher_weights` (a checkpoint's tensors) and `open_clip_parts`,
`private_copy` (of a folder, for transformers to read),
`passes` (a batch through it), `dense_passes` (sizes and windows that an image is seen at),
`dense_tokens` (of one pass) with `timm_towers`, `averaged_tokens` (of several), `text_embeddings`,
`teacher_precision`, `resizing`. An object of the user's own: `own_code` (found and run),
`own_teacher`. Maps that another system wrote: `token_files` (found and read), `token_folder`. Both
are found as `teacher_parts`.
"""
