"""From folders of images to memory-mapped tiles: readers, checks, splits, windows, packs and batches."""
