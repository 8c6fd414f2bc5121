"""From a CT pickle, a folder of slices or nothing at all to training samples."""
