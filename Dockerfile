# syntax=docker/dockerfile:1
#
# The image of dstl: one binary on Debian slim, run by a user without privileges.
#
#   docker build -t dstl --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker run --rm -v /run/dstl:/run/dstl -v dstl:/var/lib/dstl dstl
#
# /run/dstl      holds the socket; share it with the task. User 10001 must be able to write there.
# /var/lib/dstl  holds the data folder: RocksDB's files, and the store where none is configured. Give it a volume.

ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS build
# The image brings compilers for C and C++; the bindings of RocksDB need libclang as well.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Dependencies are built on a skeleton of the package, so that this layer lasts until Cargo.lock, the wire types or the client change.
COPY Cargo.toml Cargo.lock ./
COPY proto proto
COPY clients/rust clients/rust
RUN mkdir -p src tests/it tests/process benches/load benches/stages examples/demo \
    && touch src/lib.rs tests/it/main.rs tests/process/main.rs benches/load/main.rs benches/stages/main.rs examples/demo/dstl_demo.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin dstl
COPY README.md ./
COPY src src
# Cargo goes by time stamps, and those of the sources may be older than the skeleton's.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin dstl \
    && strip --strip-debug -o /dstl target/release/dstl

FROM debian:bookworm-slim
# Certificates for https stores; the C++ runtime for RocksDB.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 dstl \
    && useradd --system --uid 10001 --gid dstl --home-dir /var/lib/dstl --shell /usr/sbin/nologin dstl \
    && install -d -o dstl -g dstl -m 0750 /var/lib/dstl /run/dstl
COPY --from=build /dstl /usr/local/bin/dstl
COPY LICENSE /usr/share/doc/dstl/LICENSE
# They make /var/lib/dstl and /run/dstl/dstl.sock the defaults; a configuration may still say otherwise, which it could not
# if the variables of the options themselves (DSTL_…) were set here.
ENV XDG_STATE_HOME=/var/lib XDG_RUNTIME_DIR=/run/dstl
# By number, so that Kubernetes sees that it is not root.
USER 10001:10001
# /metrics, /live and /ready, once admin.address is other than loopback.
EXPOSE 9321
STOPSIGNAL SIGTERM
# Reads the same configuration as the daemon (DSTL_CONFIG and DSTL_…), and asks its /ready: nobody should open a backend on a
# daemon that drains. Where the daemon gets flags instead, give them to the check as well.
HEALTHCHECK --interval=10s --timeout=8s --start-period=15s --retries=3 CMD ["dstl", "health"]
ENTRYPOINT ["/usr/local/bin/dstl"]
CMD ["serve"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dstl" \
      org.opencontainers.image.description="Changelog state-backend daemon for stream processors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
