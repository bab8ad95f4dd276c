"""The networks: `student` (a network projected to CLIP's width), `networks` (which there are),
`encoder_weights`, and the architectures that segmentation_models_pytorch lacks.
"""
