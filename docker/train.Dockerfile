# The training image, and (target "tracking") the image of the MLflow server. README.md in this folder says how to use them.
#
#   docker build -f docker/train.Dockerfile -t lookalike-train .
#
# Leave TORCH_INDEX empty for torch's CUDA build, which brings its own CUDA libraries: the host needs only the NVIDIA driver
# and the container toolkit. For the CPU build, set it to the pip index that PyTorch's installation page names.
# For more reproducible builds, pin the base image by its digest:
#   docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:…
# where `docker buildx imagetools inspect python:3.11-slim-bookworm` prints the digest. Debian's packages stay unpinned.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
# tini passes signals on to the job, even before Python has installed its handlers.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
RUN python -m venv /opt/venv \
 && useradd --uid 10001 --user-group --create-home --home-dir /home/lookalike lookalike
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /opt/build/


# The MLflow server: MLflow, and drivers for Postgres and S3-compatible storage, as pinned in constraints.txt.
FROM base AS tracking
ARG DRIVERS="psycopg2-binary boto3"
# hadolint ignore=DL3013,DL3042,SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /opt/build/constraints.txt mlflow ${DRIVERS}
ENV GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_BACKEND_STORE_URI=sqlite:////mlflow/mlflow.db \
    MLFLOW_ARTIFACTS_DESTINATION=/mlflow/artifacts
RUN install -d -o lookalike -g lookalike /mlflow
USER 10001
WORKDIR /mlflow
VOLUME /mlflow
EXPOSE 5000
ENTRYPOINT ["tini", "--"]
# Not --backend-store-uri, which would show a password in the process list.
CMD ["mlflow", "server", "--host", "0.0.0.0", "--workers", "1"]


# Only the requirements of pyproject.toml, so that changes to its other lines do not invalidate the layers below.
FROM base AS requirements
COPY pyproject.toml /opt/build/
RUN python -c "import tomllib; print(*tomllib.load(open('/opt/build/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > /opt/build/requirements.txt


FROM base AS train
# The slowest layer first: torch with its requirements.
ARG TORCH=2.13.0
ARG TORCH_INDEX=
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --constraint /opt/build/constraints.txt "torch==${TORCH}"
COPY --from=requirements /opt/build/requirements.txt /opt/build/
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /opt/build/constraints.txt --requirement /opt/build/requirements.txt

# The built-in reviews, so that jobs need no network. Only changes to the code that fetches them invalidate this layer.
ENV LOOKALIKE_CACHE=/opt/data
COPY train/__init__.py train/atomic.py train/bits.py train/errors.py train/builtin.py /opt/build/train/
RUN PYTHONPATH=/opt/build python -c "from train import builtin; print(len(builtin.movie_reviews()[0]), 'reviews')" \
 && chmod -R a+rX /opt/data \
 && mkdir /opt/data/rows \
 && chmod 1777 /opt/data/rows

# The code comes last, so that a change to it rebuilds in seconds. PYTHONSAFEPATH keeps `python -m train` from importing
# code from the working directory.
ENV PYTHONPATH=/opt/lookalike \
    PYTHONSAFEPATH=1 \
    HOME=/tmp \
    USER=lookalike \
    MPLCONFIGDIR=/tmp/matplotlib \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true
COPY train /opt/lookalike/train
COPY serve /opt/lookalike/serve
# The checkout may be readable by its owner only, and the job runs as another user.
RUN chmod -R a+rX /opt/lookalike
# MLflow shows this as the run's commit.
ARG REVISION=unknown
ENV MLFLOW_RUN_CONTEXT="{\"mlflow.source.git.commit\": \"${REVISION}\"}"
LABEL org.opencontainers.image.title="lookalike-train" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
# Start the job with your own uid (docker run --user), so that its files belong to you.
USER 10001
WORKDIR /home/lookalike
ENTRYPOINT ["tini", "--", "python", "-m", "train"]
CMD ["--help"]
