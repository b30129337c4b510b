# Each target does its own set-up. Only those on a node need root: e2e, e2e-long, bench-node.

# The main job on one machine, with an AWS stand-in: no AWS, no cluster, no root.
demo:
	@echo "Building the program and the demo. The first time takes some minutes."
	cargo build --locked --package fab-session-injector --bin fab-session-injector --package demo
	cargo run --locked --quiet --package demo

# After each change: format, lints of the program, and the tests that take seconds.
quick:
	cargo fmt --all --check
	cargo clippy --locked --lib --bins -- --deny warnings
	tests/run quick

# All tests but those on a node, against the real kube-apiserver, etcd, Helm and moto that
# tests/setup builds once and caches outside the clone.
test:
	variables=$$(tests/setup) && eval "$$variables" && tests/run quick server chart cluster

# The image, the chart and AWS's SDKs on a real node. It has mounts, links and cgroups of
# its own, hence root.
e2e: image
	variables=$$(tests/setup --node) && eval "$$variables" && tests/run node

# Ten minutes more of it, on several nodes: each promise, changes of the installation under a
# stream of pods, and wrong installs. Not part of CI.
e2e-long: image
	variables=$$(tests/setup --node) && eval "$$variables" && tests/run long

# Each pod and pod template of a folder of manifests, as an agent: through inject, the webhook,
# and an API server with the guard. Not part of CI, which does the same with the goldens.
foreign:
	@test -n "$(FOLDER)" || { echo "no folder: make foreign FOLDER=manifests" >&2; exit 2; }
	folder=$$(realpath "$(FOLDER)") && variables=$$(tests/setup) && eval "$$variables" && \
	  FAB_MANIFESTS=$$folder cargo test --locked --test cluster -- --nocapture manifests::

# The image of this commit for this architecture, as an OCI archive in target/image.
# `image/build amd64 arm64` builds both, and one image of them.
image:
	image/build

# Each step of a release that needs no credentials: both images, chart, archives of the program, krew
# manifest, checksums, SBOM, a push to a registry on this machine, a throwaway signature. Not part
# of CI, whose test cluster::release makes the files from small images.
release-dry-run:
	variables=$$(tests/setup) && eval "$$variables" && PATH=$$FAB_TEST_BIN:$$PATH release/dry-run

# The program for arm64, run by qemu on another architecture. Not part of CI.
arm64:
	tests/arm64

# What depends on the API server, on another version of Kubernetes: FAB_KUBERNETES=1.32 to 1.36.
version:
	variables=$$(tests/setup) && eval "$$variables" && tests/run version

# Formatting, lints and the rules on dependencies; what CI runs beside the tests.
lint:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" cargo doc --quiet --locked --workspace --no-deps --document-private-items
	cargo deny --locked --workspace check bans licenses sources

# Known holes in the dependencies. CI prints the outcome, and no outcome stops it.
advisories:
	@tests/advisories || test $$? -eq 3

# What strangers write, for a minute each: fuzz/run SECONDS [TARGET] for longer.
fuzz:
	fuzz/run 60

# The handler against one that does nothing, in one run.
bench:
	benches/compare

# What webhook, guard and sidecar add on a real node, in one run with a cluster without them.
bench-node: image
	variables=$$(tests/setup --node) && eval "$$variables" && cargo build --locked --release --example floor && \
	  cargo bench --locked --bench added -- "$${CARGO_TARGET_DIR:-$$PWD/target}/release/examples/floor"

.PHONY: demo quick test foreign e2e e2e-long image release-dry-run arm64 version lint advisories fuzz bench bench-node
