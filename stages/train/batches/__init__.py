"""From a store and a data set (`training_data`) to the batches of a run.

`sampling` decides which image comes and which crop of it, `crops` makes the crop: image
(`photometric`, `imagenet`), label and cached tokens, cut alike. `batch` is what a step gets,
`packing` one block of memory for it, `loader` the processes that make them. `known_classes` is what
a protocol lets training see of the classes, `supervision` which settings have nothing to do where
none of them is seen, or none unseen; `store_check` whether a store has what a run needs,
`changed_images` whether it was made from the images that are there.
"""
