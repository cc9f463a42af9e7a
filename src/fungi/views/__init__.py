"""Views of an image, a text or a sound. They depend on the seed, the objective and the sample id, not on the batch.

A generator works in two steps. `prepare` runs in the workers of the loader, sample by sample: it crops images and
returns 8-bit pixels. `render` runs on the device, for a batch: it cuts patches and normalises, in floating point.
"""
