"""A trained student as one file for any class names, which runs without zsseg and without torch.

`export_run` is the way in. `student_graph` builds the whole ONNX graph, by `graph_builder`:
`resize_graph` (the image as Pillow resizes it), `network_graph` (the student's network by torch's
exporter, a `quiet_exporter`, with `fixed_padding`), `label_graph` (labels and confidence).
`small_numbers` makes 8- and 16-bit networks, `real_images` finds images to try an export on,
`agreement` runs it against PyTorch, `metadata` says what is in the file, `needed_packages` what to
install. `standalone` is the script that lies beside an export, `names_file` holds text embeddings
for machines without CLIP, `text_tower` is CLIP's text tower. `torch_program` writes a student for
torch alone.
"""
