# What a developer of geth-peering does; `make` alone lists it.
#
# Needed: Debian 12 or the like, Rust, Go, make, git.  What else is missing is
# installed, and said; as another user than root, Docker must be there.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test unit e2e faults lint explore fuzz bench-mesh rest bench-register bench-injector cluster images install clean kubeconfig toolpath

cluster := $(or $(GETH_PEERING_CLUSTER),geth-peering)
tools := e2e/cluster/tools

# Tests that need a cluster are those of e2e/tests, except that of the chart, which
# needs helm alone.  All are built by the one selection --workspace, because
# another would compile the dependencies again, with other features.
tests = $(basename $(notdir $(wildcard $(1)/tests/*.rs))) $(notdir $(patsubst %/main.rs,%,$(wildcard $(1)/tests/*/main.rs)))
e2e_tests := $(filter-out chart,$(call tests,e2e))
unit_tests := $(foreach crate,sidecar injection injector e2e/fakes,$(call tests,$(crate))) $(filter chart,$(call tests,e2e))
ifneq ($(filter $(e2e_tests),$(unit_tests)),)
$(error two tests are called $(filter $(e2e_tests),$(unit_tests)): please rename one)
endif
cargo_test := cargo test --workspace --no-fail-fast

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## five Geths of an ordinary StatefulSet become a full mesh, from nothing
	@MAKE="$(MAKE)" e2e/demo

test: ## every test there is; ends with counts (half an hour with warm caches)
	@MAKE="$(MAKE)" e2e/count lint unit e2e

unit: ## the tests that need no cluster
	@PATH="$$($(tools) helm helm-unittest):$$PATH" && \
	helm-unittest --strict $(if $(UPDATE_GOLDEN),--update-snapshot) chart && \
	$(cargo_test) --lib --bins $(addprefix --test ,$(sort $(unit_tests))) && $(cargo_test) --doc

e2e: install ## the tests on the kind cluster
	@e2e/cluster/load-geth $(cluster) geth-clique
	@PATH="$$($(tools) kind helm helm4 kubectl cert-manager-controller cert-manager-cainjector):$$PATH" && \
	KUBECONFIG="$$(. e2e/cluster/lib.sh && kubeconfig $(cluster))" && export KUBECONFIG E2E_CONTEXT=kind-$(cluster) && \
	E2E_CERT_MANAGER="$$(. e2e/cluster/lib.sh && module cert-manager)" && export E2E_CERT_MANAGER && \
	E2E_PROMETHEUS_OPERATOR="$$(. e2e/cluster/lib.sh && module prometheus-operator)" && export E2E_PROMETHEUS_OPERATOR && \
	set -a && . target/images.env && set +a && \
	$(cargo_test) $(addprefix --test ,$(sort $(e2e_tests)))
	@e2e/bench/run 0 0

faults: install ## what may happen to networks, and how long each takes to heal: docs/faults.md (an hour; FAULTS="geth api-silent" chooses)
	@PATH="$$($(tools)):$$PATH" && export KUBECONFIG="$$(. e2e/cluster/lib.sh && kubeconfig $(cluster))" && \
	cargo build --workspace --bin faults && $${CARGO_TARGET_DIR:-target}/debug/faults $(FAULTS)

lint: ## cargo fmt and clippy, shellcheck, helm lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	e2e/lint-scripts
	PATH="$$($(tools) helm):$$PATH" && helm lint --strict chart

explore: ## the larger explorations of the model in sidecar/tests/model, which take minutes
	@cargo test --workspace --release --test model -- --ignored --nocapture --test-threads 1

fuzz: ## fuzz what strangers can write, FUZZ_SECONDS=60 for each target
	@fuzz/run

RUNS := 5
SIZES := 5 10 20 33
bench-mesh: install ## a table of how fast networks become full meshes; RUNS=5 SIZES="5 10 20 33" takes over an hour
	@PATH="$$($(tools)):$$PATH" && export KUBECONFIG="$$(. e2e/cluster/lib.sh && kubeconfig $(cluster))" && \
	cargo build --workspace --bin mesh_bench && "$${CARGO_TARGET_DIR:-target}/debug/mesh_bench" $(RUNS) $(SIZES)

SIZE := 10
MINUTES := 60
rest: install ## memory of each sidecar of a network at rest, and requests a minute; SIZE=10 MINUTES=60
	@PATH="$$($(tools)):$$PATH" && export KUBECONFIG="$$(. e2e/cluster/lib.sh && kubeconfig $(cluster))" && \
	cargo build --workspace --bin mesh_bench && "$${CARGO_TARGET_DIR:-target}/debug/mesh_bench" rest $(SIZE) $(MINUTES)

COUNT := 1000
bench-register: install ## how fast one ConfigMap takes the entries of many sidecars at once; COUNT=1000 takes three minutes
	@PATH="$$($(tools)):$$PATH" && export KUBECONFIG="$$(. e2e/cluster/lib.sh && kubeconfig $(cluster))" && \
	cargo build --workspace --bin mesh_bench && "$${CARGO_TARGET_DIR:-target}/debug/mesh_bench" register $(COUNT)

ROUNDS := 5
SECONDS_EACH := 5
bench-injector: ## the injector beside the same in Go on one core: docs/injector-bench.md (ten minutes; ANCHORS=1: and beside the fastest other one known)
	@e2e/bench/run $(ROUNDS) $(SECONDS_EACH)

cluster: ## a kind cluster with Geth's image on its nodes; made, started again, or left as it is
	@e2e/cluster/cluster-up $(cluster) 3 >/dev/null && e2e/cluster/load-geth $(cluster)

images: cluster ## both images, built and brought onto the cluster
	@e2e/images

install: images ## this checkout's chart, into namespace geth-peering
	@e2e/install

clean: ## the cluster gone (caches stay)
	@e2e/cluster/cluster-down $(cluster)

kubeconfig: ## print the path of the cluster's kubeconfig
	@. e2e/cluster/lib.sh && kubeconfig "$$cluster"

toolpath: ## print the folder with kind, helm and kubectl
	@$(tools)
