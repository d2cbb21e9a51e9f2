"""SqueezeTime, a video-recognition network for phones, in JAX and Flax NNX."""
