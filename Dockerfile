# The two images, `sidecar` and `injector`: one static program each, and nothing else.
#
#     docker build --target sidecar  -t geth-peering/sidecar  .
#     docker build --target injector -t geth-peering/injector .
#
# need nothing but Docker.  Where the image of the Rust toolchain cannot be
# pulled, or cargo has built the programs already, the targets sidecar-prebuilt
# and injector-prebuilt take them from a context that holds only them: e2e/images
# does so.

# Docker's classic builder works through all stages before its target, needed or
# not; hence this order, and hence no stage may fail in either context.

# --- what an image says of itself, however its program was built

FROM scratch AS sidecar-image
LABEL org.opencontainers.image.title="geth-peering sidecar" \
      org.opencontainers.image.description="Peers the Geth node beside it with all others of its network" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 9575
ENTRYPOINT ["/sidecar"]

FROM scratch AS injector-image
LABEL org.opencontainers.image.title="geth-peering injector" \
      org.opencontainers.image.description="Admission webhook that adds the geth-peering sidecar to Geth pods" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 8443 8080
ENTRYPOINT ["/injector"]

# --- from programs that exist (in this checkout these names are source folders,
# --- and what is copied here is thrown away)

FROM sidecar-image AS sidecar-prebuilt
COPY sidecar /sidecar

FROM injector-image AS injector-prebuilt
COPY injector /injector

# --- from source

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# Static without musl: glibc's own static library; naming the target keeps the
# flags from build scripts and procedural macros, which cannot be static.
# Packed, relocations take next to no room; a static program unpacks them by
# itself, with glibc 2.36 and newer.
RUN target=$(rustc --print host-tuple) \
 && RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" \
    cargo build --locked --release --target "$target" --bin sidecar --bin injector \
 && mkdir /out \
 && cp "target/$target/release/sidecar" "target/$target/release/injector" /out/

FROM sidecar-image AS sidecar
COPY --from=build /out/sidecar /sidecar

FROM injector-image AS injector
COPY --from=build /out/injector /injector
