"""Views of an image, a text or a sound. They depend on (seed, objective, sample id) alone, never on the batch order.

A generator works in two steps. `prepare` runs in the loader's workers, sample by sample: it crops, and gives 8-bit
pixels. `render` runs on the device, for a whole batch: it cuts patches and normalises, in floating point.
"""
