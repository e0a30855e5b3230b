"""Images in every form that a user has them in, made into rows of uint8 on disk, and batches of those.

A source (what `--data` names) is listed, probed for its size and channels, and decoded once into a cache file
that later runs map into memory. The toy sets of the WGAN-GP paper are points in the plane, held in memory.
"""
