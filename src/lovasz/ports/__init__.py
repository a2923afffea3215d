"""What the ports to JAX, TensorFlow and Keras share: the losses written once, for arrays of any framework.

Apart from `lovasz.kernels`, which is PyTorch's. Nothing here imports a framework: each port hands in its operations.
"""
