# The serving image: TorchServe with Java, torch and the serving code, without what only training needs. README.md in this
# folder says how to use it.
#
#   docker build -f docker/serve.Dockerfile -t lookalike-serve .                             models are mounted at /models
#   docker build -f docker/serve.Dockerfile -t lookalike-serve:7 \
#     --target baked --build-arg MODEL=runs/00007-movie-reviews-tokens/lookalike.mar .      with a built-in model
#
# For more reproducible builds, pin the base image by its digest:
#   docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:…
# where `docker buildx imagetools inspect python:3.11-slim-bookworm` prints the digest. Debian's packages stay unpinned.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /opt/build/
# Generators are small and are served on the CPU, in float64. TORCH_INDEX names a pip index with torch's CPU build (see
# PyTorch's installation page), which saves several gigabytes of CUDA; if empty, pip uses its default index.
ARG TORCH=2.13.0
ARG TORCH_INDEX=
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --constraint /opt/build/constraints.txt "torch==${TORCH}"
# The imports of serve/ and of the modules of train/ that it uses; constraints.txt has the versions.
# hadolint ignore=DL3013,DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /opt/build/constraints.txt \
      click numba numpy orjson psutil pyyaml requests safetensors torchserve \
 && pip uninstall --yes pip setuptools
# Remove what torch's wheel has for building and testing C++ code (140 MB), and the tests of other packages (70 MB).
RUN find /opt/venv/lib/python3.*/site-packages -type d -name tests -prune -exec rm -r {} + \
 && rm -rf /opt/venv/lib/python3.*/site-packages/torch/include /opt/venv/lib/python3.*/site-packages/torch/test \
 && find /opt/venv/lib/python3.*/site-packages/torch/bin -type f ! -name torch_shm_manager -delete


FROM ${BASE} AS runtime
# Java 17 runs TorchServe; tini is the init process, which passes signals on and reaps orphans of TorchServe's launcher.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends openjdk-17-jre-headless tini \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp lookalike \
 && install -d /models
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/lookalike \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    LOOKALIKE_SERVE_RUNS=/tmp/lookalike \
    LOOKALIKE_SERVE_HOST=0.0.0.0 \
    LOOKALIKE_SERVE_MODEL_API=true
COPY train/__init__.py train/artifact.py train/atomic.py train/catalogue.py train/codec.py train/generator.py \
     train/language_model.py train/nade.py train/ngram.py train/scorer.py train/text_generator.py train/cpus.py \
     train/errors.py train/exits.py train/store.py /opt/lookalike/train/
COPY serve /opt/lookalike/serve
COPY docker/entrypoint.py docker/healthcheck.py /opt/lookalike/
# The checkout may be readable by its owner only, and the server runs as another user.
RUN chmod -R a+rX /opt/lookalike
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lookalike-serve" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
# Only /tmp is written to. With a read-only root it must be a tmpfs that allows exec, because Java loads a library from it.
USER 10001
WORKDIR /tmp
# Predictions. Metrics, if published, are on 8082. Management stays on a Unix socket inside.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=8s --start-period=90s --retries=3 CMD ["python", "-I", "/opt/lookalike/healthcheck.py"]
ENTRYPOINT ["tini", "--", "python", "/opt/lookalike/entrypoint.py"]


# An image with a built-in model, which is proved during the build.
FROM runtime AS baked
ARG MODEL
COPY --chmod=644 ${MODEL} /models/lookalike.mar
RUN python -c "import pathlib; from serve import archive; archive.verify(pathlib.Path('/models/lookalike.mar'))"


# The default: models are mounted at /models.
FROM runtime AS serve
