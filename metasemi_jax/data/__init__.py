"""Images in: sources, splits, step-indexed sampling, augmentation on the device."""
