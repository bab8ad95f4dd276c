"""Stage two: train an ordinary segmentation student against the store, without CLIP."""
