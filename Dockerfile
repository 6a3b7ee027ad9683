# The service and one of four engines: `--target cpu`, `gpu`, `gpu-slim` or `gpu-tensorrt`. Labelling in bulk on Ray:
# `--target bulk`. What makes their bundles: `--target training`. How to build and run: docs/image.md.
#
# Packages are one layer, our code is the last: a change of ours makes a node pull a megabyte. What a layer holds lies
# under a folder of its own (/layer, /cudnn, /baked, /ours, /account), every file with the same time, and gets into the image by
# `COPY --from=… FOLDER/ /`, which keeps the times of folders too: the same packages are the same layer on every builder.
# The build needs nothing but pip's packages; a private index and its certificates come in as secrets, never into a layer.

# Debian with Python 3.11 as `python3`. For a release, name it by digest.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# An empty folder, so that no bundle is baked in; `--build-context bundle=FOLDER` puts one in its place, as scripts/image.py
# does. All may read it, whoever made it under whatever umask: the same bundle is the same layer.
FROM scratch AS bundle

FROM ${BASE_IMAGE} AS tools
# The time of every file, and of what wheels and accounts write down: 1980, where zip files begin.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    SOURCE_DATE_EPOCH=315532800 PYTHONHASHSEED=0
COPY docker/install.sh scripts/notices.py locks/build.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    python3 -m venv --without-pip /build/tools && sh /build/install.sh /build/tools /build/build.txt && \
    python3 -m venv --without-pip /opt/venv && mkdir -p /layer/opt && mv /opt/venv /layer/opt/ && \
    ln -s /layer/opt/venv /opt/venv
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin food-vision && \
    mkdir -p /account/etc /account/usr/share/doc && cp -p /etc/passwd /etc/group /etc/shadow /etc/gshadow /account/etc/ && \
    ln -s /opt/venv/share/doc/food-vision /account/usr/share/doc/food-vision && \
    find /account -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

FROM tools AS baked
COPY --from=bundle / /baked/bundle/
RUN chmod -R u=rwX,go=rX /baked && find /baked -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

# Only these two rooms are here, so the wheel holds only these two.
FROM tools AS ours
COPY pyproject.toml README.md LICENSE NOTICE /build/source/
COPY app /build/source/app
COPY contract /build/source/contract
RUN sh /build/install.sh /opt/venv /build/source /ours

FROM tools AS ours-training
COPY pyproject.toml README.md LICENSE NOTICE /build/source/
COPY contract /build/source/contract
COPY export /build/source/export
COPY modeling /build/source/modeling
COPY training /build/source/training
RUN sh /build/install.sh /opt/venv /build/source /ours

# HEIC=1 adds pillow-heif, whose wheel holds x265, which is under the GPL: whoever passes such an image on must keep to
# that licence.
FROM tools AS packages
ARG HEIC=
COPY locks/heic.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    [ -z "${HEIC}" ] || sh /build/install.sh /opt/venv /build/heic.txt

FROM packages AS packages-cpu
COPY locks/cpu.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/cpu.txt

FROM packages AS packages-gpu-slim
COPY locks/gpu-slim.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/gpu-slim.txt

# gpu.txt is gpu-slim.txt and cuDNN with its like (a test holds that): what is there already is not fetched again, and
# what is not becomes a second layer above the one that both images have.
FROM packages-gpu-slim AS packages-gpu
COPY locks/gpu.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/gpu.txt /cudnn

# Never built where this was written: these libraries (3.7 GB) are on NVIDIA's package index alone. The package on the
# common index is a stub that fetches them from there while it is installed.
FROM packages-gpu-slim AS packages-gpu-tensorrt
ARG TENSORRT=tensorrt-cu13-libs==10.16.1.11
COPY locks/gpu.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    printf '%s\n' "${TENSORRT}" > /build/tensorrt.txt && sh /build/install.sh /opt/venv /build/gpu.txt && \
    UNHASHED=1 sh /build/install.sh /opt/venv /build/tensorrt.txt

FROM packages AS packages-bulk
COPY locks/bulk.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    sh /build/install.sh /opt/venv /build/bulk.txt

# The lock has torch with CUDA, as on the common index. For a machine without a GPU, TORCH names another build of it, as
# torch==2.13.0+cpu, which pip's configuration must lead to: that one has no hash here, and the CUDA libraries stay away.
FROM packages AS packages-training
ARG TORCH=
COPY locks/training.txt /build/
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    if [ -n "${TORCH}" ]; then \
        sed -i -E '/^(torch|triton|(cuda|nvidia)-[a-z0-9-]+)==/,/[^\\]$/d' /build/training.txt && \
        printf '%s\n' "${TORCH}" > /build/torch.txt && UNHASHED=1 sh /build/install.sh /opt/venv /build/torch.txt; \
    fi && sh /build/install.sh /opt/venv /build/training.txt

FROM ${BASE_IMAGE} AS account
# Version, licences, commit, time and base are labels too, given when it is built (scripts/image.py): they would spoil
# the cache here.
LABEL org.opencontainers.image.title="food-vision"
COPY --from=tools /account/ /
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
COPY --from=packages-cpu /layer/ /
COPY --from=baked /baked/ /
COPY --from=ours /ours/ /
ENV FOOD_VISION_PROVIDER=cpu
USER 10001:10001

# GKE mounts the node's driver at /usr/local/nvidia and nothing else tells the loader. The CUDA libraries of the pip
# packages are found by the program itself.
FROM account AS account-gpu
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:/usr/local/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Logs, states and checkpoints go where --out says; caches of data sets and models to HOME, where something must be mounted.
FROM account-gpu AS training
LABEL org.opencontainers.image.description="Fine-tunes BLIP to name the food on a photo, and exports it to ONNX"
COPY --from=packages-training /layer/ /
COPY --from=ours-training /ours/ /
ENV HOME=/tmp
ENTRYPOINT ["python", "-m", "training"]
USER 10001:10001

# Ray writes its sockets and logs to /tmp, too. KubeRay gives the containers of a cluster commands of its own.
FROM account-gpu AS bulk
LABEL org.opencontainers.image.description="Names the food on a bucket's photos: ONNX Runtime on a Ray cluster"
COPY --from=packages-bulk /layer/ /
COPY --from=baked /baked/ /
COPY --from=ours /ours/ /
ENV HOME=/tmp RAY_USAGE_STATS_ENABLED=0
ENTRYPOINT ["python", "-m", "app.bulk"]
USER 10001:10001

# As in account-gpu.
FROM runtime AS runtime-gpu
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:/usr/local/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime-gpu AS gpu-tensorrt
COPY --from=packages-gpu-tensorrt /layer/ /
COPY --from=baked /baked/ /
COPY --from=ours /ours/ /
ENV FOOD_VISION_PROVIDER=tensorrt
USER 10001:10001

FROM runtime-gpu AS gpu-slim
COPY --from=packages-gpu-slim /layer/ /
COPY --from=baked /baked/ /
COPY --from=ours /ours/ /
ENV FOOD_VISION_PROVIDER=cuda
USER 10001:10001

FROM runtime-gpu AS gpu
COPY --from=packages-gpu-slim /layer/ /
COPY --from=packages-gpu /cudnn/ /
COPY --from=baked /baked/ /
COPY --from=ours /ours/ /
ENV FOOD_VISION_PROVIDER=cuda
USER 10001:10001
