# One image for every part of Tidegate: router, billing, operator, sim engine, command line.
#
#   docker build -t tidegate:dev .           make image (with buildah, as the tests do)
#   docker run tidegate:dev router --help    the arguments choose the part
#
# What a pod can rely on
#   entry point  /opt/tidegate/bin/tidegate, exec'd directly: no shell, the part itself is PID 1
#   user         65532:65532, by number, so that `runAsNonRoot` can be verified
#   files        nothing is written outside the working folder /var/lib/tidegate (mount a volume
#                there, or give TIDEGATE_DATA, TIDEGATE_JOURNAL_DIR) and /tmp (an emptyDir); the root
#                may be read-only
#   inventory    /opt/tidegate/sbom.json, CycloneDX 1.5: Python and Debian packages
#
# Python is Debian's own build (PGO and LTO). The packages are those of uv.lock, all extras but the
# `uv` program itself (60 MB): the parts never install anything, and local mode is not for pods.
# Layers: Debian, locked packages, our code. A change of our code makes the last one anew.
#
# Build secrets, all optional, for networks with their own mirrors; none is left in a layer:
#   env   a shell file to source first: UV_DEFAULT_INDEX, PIP_INDEX_URL, HTTPS_PROXY ...
#   ca    a bundle of CA certificates
#   apt   an apt.conf

ARG BASE=debian:bookworm-slim
FROM ${BASE} AS python
RUN --mount=type=secret,id=env --mount=type=secret,id=apt \
    if [ -f /run/secrets/env ]; then . /run/secrets/env; fi; \
    if [ -f /run/secrets/apt ]; then export APT_CONFIG=/run/secrets/apt; fi; \
    export DEBIAN_FRONTEND=noninteractive; set -eu; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends ca-certificates python3; \
    apt-get clean; \
    find /usr/lib/python3 /usr/lib/python3.* /usr/share/python3 -name __pycache__ -prune \
      -exec rm -rf {} +; \
    rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/debconf/* /var/cache/ldconfig/*; \
    python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.*

FROM python AS build
# The version is uv.lock's (a test compares them). The list of Debian packages comes first, while
# those of the last stage are all there is.
ARG UV_VERSION=0.13.9
RUN --mount=type=secret,id=env --mount=type=secret,id=ca --mount=type=secret,id=apt \
    if [ -f /run/secrets/env ]; then . /run/secrets/env; fi; \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -f /run/secrets/apt ]; then export APT_CONFIG=/run/secrets/apt; fi; \
    export DEBIAN_FRONTEND=noninteractive; set -eu; \
    dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' > /debian-packages; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends python3-venv; \
    python3 -m venv /opt/uv; \
    /opt/uv/bin/pip install --quiet --no-cache-dir "uv==${UV_VERSION}"
ENV PATH=/opt/uv/bin:$PATH \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/tidegate \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_NO_PROGRESS=1
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN --mount=type=secret,id=env --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/uv \
    if [ -f /run/secrets/env ]; then . /run/secrets/env; fi; \
    if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    set -eu; \
    uv sync --frozen --no-dev --all-extras --no-install-project --no-install-package uv
RUN uv export --quiet --frozen --no-dev --all-extras --prune uv \
      --format cyclonedx1.5 --output-file /sbom-python.json \
 && python3 -c 'import json; \
parts = [line.split() for line in open("/debian-packages")]; \
made = json.load(open("/sbom-python.json")); \
made.pop("serialNumber", None); made["metadata"].pop("timestamp", None); \
made["components"] += [{"type": "library", "bom-ref": f"deb-{name}-{arch}", "name": name, \
"version": version, "purl": f"pkg:deb/debian/{name}@{version}?arch={arch}"} \
for name, version, arch in parts]; \
json.dump(made, open("/opt/tidegate/sbom.json", "w"), indent=1)'
# Our code goes to a root of its own, which the last stage lays over the packages.
COPY README.md LICENSE ./
COPY billing billing
COPY runtime runtime
COPY operator operator
RUN --mount=type=secret,id=env --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/uv \
    if [ -f /run/secrets/env ]; then . /run/secrets/env; fi; \
    if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    set -eu; \
    uv build --quiet --wheel --out-dir /dist; \
    uv pip install --quiet --no-deps --python /opt/tidegate/bin/python --prefix /ours /dist/*.whl; \
    rm -f /ours/.lock /opt/tidegate/.lock

FROM python
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidegate" \
      org.opencontainers.image.description="AI models as a service: router, billing, operator, sim engine and command line" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN echo 'tidegate:x:65532:65532:Tidegate:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'tidegate:x:65532:' >> /etc/group \
 && mkdir -p /var/lib/tidegate \
 && chown 65532:65532 /var/lib/tidegate \
 && chmod 0750 /var/lib/tidegate
COPY --from=build /opt/tidegate /opt/tidegate
COPY --from=build /ours /opt/tidegate
ENV PATH=/opt/tidegate/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/tidegate
USER 65532:65532
ENTRYPOINT ["/opt/tidegate/bin/tidegate"]
CMD ["--help"]
