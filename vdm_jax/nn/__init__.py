"""Layers shared by all backbones.  They name logical axes only; meshes, rules and kernels are chosen outside."""
