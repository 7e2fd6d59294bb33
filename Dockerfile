# lemonade-serve as a container: docs/containers.md says how to build and to run it.
#
# Targets: cpu (the default), openvino (Intel iGPU and NPU), webgpu (any iGPU with Vulkan), export
# (the CPU, and models converted from safetensors). All bases are pinned by tag, all packages by
# constraints.txt; every file of ours is the same, byte for byte, in every build (what is left is the
# times of directories: a builder's `rewrite-timestamp=true` sets those).
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS tools
RUN apt-get update \
    && apt-get install -y --no-install-recommends "binutils=2.40-*" "tini=0.19.*" \
    && rm -rf /var/lib/apt/lists/*

# Apart, so that what else changes in pyproject.toml installs nothing anew.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /build
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['export'], sep='\n')" > export.txt

# What lemonade-serve depends on, less what no import of it reaches: tests, libraries for another way
# to the hub and for made-up examples, onnxruntime's own tools, symbols for debuggers (numpy's
# libraries were patched after they were linked, and do not survive a strip).
FROM tools AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONHASHSEED=0
WORKDIR /build
COPY --from=requirements /build/requirements.txt ./
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/lemonade \
    && pip --python /opt/lemonade/bin/python install --no-compile -c constraints.txt -r requirements.txt \
    && pip --python /opt/lemonade/bin/python uninstall -y faker polyfactory hf-xet
ARG SOURCE_DATE_EPOCH=0
WORKDIR /opt/lemonade/lib/python3.12/site-packages
RUN cp /usr/bin/tini-static /opt/lemonade/bin/tini \
    && find . -depth -type d \( -name test -o -name tests -o -name testing -o -name _testbase \) \
        -not -path './numpy/testing' -not -path './litestar/testing' -exec rm -r {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \
        -o -name '*.cc' -o -name '*.a' -o -name '*.proto' \) -delete \
    && rm -r onnx/reference onnxruntime/transformers onnxruntime/quantization onnxruntime/tools \
    && find . -name '*.so' -not -path './numpy*' -exec strip --strip-debug {} + \
    && python -m compileall -q -f --invalidation-mode unchecked-hash . \
    && find /opt/lemonade -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# lemonade-serve itself, apart: a change of it leaves the layer with the dependencies as it is.
FROM dependencies AS package
RUN --mount=type=cache,target=/root/.cache/pip pip install hatchling==1.33.0
WORKDIR /build
COPY pyproject.toml README.md ./
COPY lemonade_serve ./lemonade_serve
# hadolint ignore=DL3013,DL3042
RUN pip wheel --no-deps --no-build-isolation -w wheels . \
    && pip --python /opt/lemonade/bin/python install --no-compile --no-deps --no-index --find-links wheels \
        --prefix /package lemonade-serve \
    && python -m compileall -q -f --invalidation-mode unchecked-hash /package \
    && find /package -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# All that the targets have in common. pip goes, and the standard library is compiled once here: in
# a read-only container every process would compile it anew.
FROM ${PYTHON_IMAGE} AS runtime
WORKDIR /usr/local/lib/python3.12
RUN rm -r ensurepip site-packages/pip site-packages/pip-*.dist-info /usr/local/bin/pip* \
    && find . -name __pycache__ -exec rm -r {} + \
    && PYTHONHASHSEED=0 python -m compileall -q -f --invalidation-mode unchecked-hash \
        -x '/(test|tests|idlelib|turtledemo|lib2to3|tkinter|pydoc_data)/' . \
    && groupadd --gid 10001 lemonade \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home \
        --home-dir /var/lib/lemonade --shell /usr/sbin/nologin lemonade \
    && install -d -m 1777 /var/cache/lemonade /var/lib/lemonade
COPY --from=dependencies /opt/lemonade /opt/lemonade
COPY --from=package /package /opt/lemonade
ENV PATH=/opt/lemonade/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LEMONADE_CACHE_DIR=/var/cache/lemonade \
    LEMONADE_STATE_DIR=/var/lib/lemonade \
    HF_HOME=/var/cache/lemonade/.huggingface \
    LEMONADE_SERVER__HOST=0.0.0.0
WORKDIR /var/lib/lemonade
VOLUME ["/var/cache/lemonade", "/var/lib/lemonade"]
EXPOSE 1234
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["lemonade-serve", "healthcheck"]
ENTRYPOINT ["tini", "--", "lemonade-serve"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lemonade-serve" \
      org.opencontainers.image.description="Serves many ONNX language models from one machine's NPU, iGPU and CPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The plugin execution providers that drive more than the CPU, each in files of its own.
FROM dependencies AS plugins
WORKDIR /build
RUN --mount=type=cache,target=/root/.cache/pip \
    for name in openvino webgpu; do \
        pip install --no-compile --no-deps -c constraints.txt --prefix "/plugin/$name" \
            "onnxruntime-ep-$name" || exit 1; \
    done \
    && python -m compileall -q -f --invalidation-mode unchecked-hash /plugin \
    && find /plugin -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# Intel's iGPU and NPU. Debian's drivers; docs/containers.md says how newer ones get in.
FROM runtime AS openvino
USER 0:0
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        "intel-opencl-icd=22.43.*" "libze1=1.*" "ocl-icd-libopencl1=2.3.*" \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig
COPY --from=plugins /plugin/openvino /opt/lemonade
USER 10001:10001

# Any iGPU with a Vulkan driver of Mesa's.
FROM runtime AS webgpu
USER 0:0
RUN apt-get update \
    && apt-get install -y --no-install-recommends "libvulkan1=1.3.*" "mesa-vulkan-drivers=22.3.*" \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig
COPY --from=plugins /plugin/webgpu /opt/lemonade
USER 10001:10001

# What converts models, in an environment of its own: the daemon's has no torch, in this image neither.
# PyPI's torch is CUDA's, ten times as large as the one of TORCH_INDEX.
FROM dependencies AS exporter
WORKDIR /build
COPY --from=requirements /build/export.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/export \
    && pip --python /opt/export/bin/python install --no-compile -c constraints.txt \
        --extra-index-url "${TORCH_INDEX}" -r requirements.txt -r export.txt \
    && python -m compileall -q -f --invalidation-mode unchecked-hash /opt/export \
    && find /opt/export -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# The same for encoders: optimum wants another transformers.
FROM dependencies AS encoder-exporter
WORKDIR /build
COPY deploy/encoders/requirements.txt ./encoders.txt
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/encoders \
    && pip --python /opt/encoders/bin/python install --no-compile \
        --extra-index-url "${TORCH_INDEX}" -r encoders.txt \
    && python -m compileall -q -f --invalidation-mode unchecked-hash /opt/encoders \
    && find /opt/encoders -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# The daemon as it is, and safetensors converted: docs/convert.md, docs/embeddings.md.
FROM runtime AS export
COPY --from=exporter /opt/export /opt/export
COPY --from=encoder-exporter /opt/encoders /opt/encoders
COPY --from=package /package /opt/export
COPY --from=package /package /opt/encoders
ENV LEMONADE_CONVERT__PYTHON=/opt/export/bin/python \
    LEMONADE_CONVERT__ENCODER_PYTHON=/opt/encoders/bin/python

FROM runtime AS cpu
