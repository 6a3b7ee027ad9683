# The service and one of four engines: `--target cpu`, `gpu`, `gpu-slim` or `gpu-tensorrt`. What makes its bundles:
# `--target training`.
# How to build and run: docs/image.md.
# The build needs nothing but pip's packages; a private index and its certificates come in as secrets, never into a layer.

# Debian with Python 3.11 as `python3`. For a release, name it by digest.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# An empty folder, so that no bundle is baked in; `--build-context bundle=FOLDER` puts one in its place.
FROM scratch AS bundle

FROM ${BASE_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/venv
COPY docker/install.sh locks/build.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    python3 -m venv --without-pip /build/tools && sh /build/install.sh /build/tools /build/build.txt

FROM tools AS build
COPY pyproject.toml README.md LICENSE NOTICE /build/source/
COPY app /build/source/app
COPY contract /build/source/contract
# Only these two rooms are here, so the wheel holds only these two.
WORKDIR /build/source
RUN /build/tools/bin/python -c "from setuptools.build_meta import build_wheel; print(build_wheel('/build/wheels'))"

FROM build AS build-cpu
COPY locks/cpu.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/cpu.txt /build/wheels

FROM build AS build-gpu-slim
COPY locks/gpu-slim.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/gpu-slim.txt /build/wheels

# gpu.txt is gpu-slim.txt and cuDNN with its like (a test holds that): what is there already is not fetched again.
FROM build-gpu-slim AS build-gpu
COPY locks/gpu.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/gpu.txt

# Never built where this was written: these libraries (3.7 GB) are on NVIDIA's package index alone. The package on the
# common index is a stub that fetches them from there while it is installed.
FROM build-gpu AS build-gpu-tensorrt
ARG TENSORRT=tensorrt-cu13-libs==10.16.1.11
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    printf '%s\n' "${TENSORRT}" > /build/tensorrt.txt && UNHASHED=1 sh /build/install.sh /opt/venv /build/tensorrt.txt

# The lock has torch with CUDA, as on the common index. For a machine without a GPU, TORCH names another build of it, as
# torch==2.13.0+cpu, which pip's configuration must lead to: that one has no hash here, and the CUDA libraries stay away.
FROM tools AS build-training
ARG TORCH=
COPY locks/training.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    if [ -n "${TORCH}" ]; then \
        sed -i -E '/^(torch|triton|(cuda|nvidia)-[a-z0-9-]+)==/,/[^\\]$/d' /build/training.txt && \
        printf '%s\n' "${TORCH}" > /build/torch.txt && UNHASHED=1 sh /build/install.sh /opt/venv /build/torch.txt; \
    fi && sh /build/install.sh /opt/venv /build/training.txt
# After the packages: gigabytes are not fetched and compiled again for a change of ours.
COPY pyproject.toml README.md LICENSE NOTICE /build/source/
COPY contract /build/source/contract
COPY export /build/source/export
COPY modeling /build/source/modeling
COPY training /build/source/training
WORKDIR /build/source
RUN /build/tools/bin/python -c "from setuptools.build_meta import build_wheel; print(build_wheel('/build/wheels'))" && \
    python3 -m pip --python /opt/venv/bin/python install --no-deps --no-compile --no-index /build/wheels/*.whl && \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib/python3*/site-packages/contract \
        /opt/venv/lib/python3*/site-packages/export /opt/venv/lib/python3*/site-packages/modeling \
        /opt/venv/lib/python3*/site-packages/training

FROM ${BASE_IMAGE} AS account
# Version, commit and time are labels too, given when it is built (scripts/image.py): they would spoil the cache here.
LABEL org.opencontainers.image.title="food-vision" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin food-vision
# ORT_DISABLE_TELEMETRY: from 1.29 on ONNX Runtime's wheels report the model's file name and digests unless told not to.
# Everything that Python would write is written already, so the root file system may be read-only.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /

FROM account AS runtime
LABEL org.opencontainers.image.description="Names the food on a photo: an HTTP service on ONNX Runtime"
ENV FOOD_VISION_HOST=0.0.0.0 \
    FOOD_VISION_PORT=8000 \
    FOOD_VISION_BUNDLE=/bundle
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "app"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
COPY --from=bundle / /bundle/
ENV FOOD_VISION_PROVIDER=cpu
USER 10001:10001

# Logs, states and checkpoints go where --out says; caches of data sets and models to HOME, where something must be mounted.
FROM account AS training
LABEL org.opencontainers.image.description="Fine-tunes BLIP to name the food on a photo, and exports it to ONNX"
COPY --from=build-training /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:/usr/local/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/tmp
ENTRYPOINT ["python", "-m", "training"]
USER 10001:10001

# GKE mounts the node's driver at /usr/local/nvidia and nothing else tells the loader. The CUDA libraries of the pip
# packages are found by the service itself.
FROM runtime AS runtime-gpu
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:/usr/local/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime-gpu AS gpu-tensorrt
COPY --from=build-gpu-tensorrt /opt/venv /opt/venv
COPY --from=bundle / /bundle/
ENV FOOD_VISION_PROVIDER=tensorrt
USER 10001:10001

FROM runtime-gpu AS gpu-slim
COPY --from=build-gpu-slim /opt/venv /opt/venv
COPY --from=bundle / /bundle/
ENV FOOD_VISION_PROVIDER=cuda
USER 10001:10001

FROM runtime-gpu AS gpu
COPY --from=build-gpu /opt/venv /opt/venv
COPY --from=bundle / /bundle/
ENV FOOD_VISION_PROVIDER=cuda
USER 10001:10001
