"""Data sets made of a folder of images and of labels in the forms that other tools write.

Read `import_folder` (what is made), then `sources` (which files are what) and `readers` (who reads
the labels, giving the findings of `annotated`). One file per form: `index_masks`, `colour_masks`,
`coco`, `coco_panoptic`, `labelme`, `cvat_xml`, `yolo`, `label_studio`; `area_list`
collects what they read.
`name_files` reads what values and colours mean, `matching` says which file belongs to which image,
`shapes` draws areas, `class_list` joins the classes of the labels with those that the user names,
`held_out` divides the images.

`downloads` brings public data sets here (`zsseg dataset fetch`): `download` one file, `unpack` an
archive.
"""
