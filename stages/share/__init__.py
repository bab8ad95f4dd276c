"""A trained student to hand on: a folder that anybody can load, and the way to the Hub.

`save_pretrained` writes the folder (who reads it: `stages/train/run/pretrained.py`), with a
`model_card` of the `run_facts`; `hub` sends it to the Hugging Face Hub and gets one from there.
"""
