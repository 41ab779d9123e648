"""The running service: Ray Serve deployments around the library in `router`.

The only package that imports Ray Serve and vLLM.
"""
