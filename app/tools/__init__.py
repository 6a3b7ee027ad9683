"""Commands beside the service: fetch a bundle, build its TensorRT engines, smoke-test a service."""
