# `make help` names the targets. Everything is built into a cache outside the checkout, so that a
# fresh clone on a warm machine does not start from nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GPHEAL_CACHE ?= /var/cache/gpheal
CARGO_TARGET_DIR ?= $(GPHEAL_CACHE)/target
export GPHEAL_CACHE CARGO_TARGET_DIR
CARGO ?= cargo
E2E = $(CARGO) run --quiet --locked --package gpheal-e2e --bin
SCENARIO ?=

.DEFAULT_GOAL := help
.PHONY: help test lint unit generated e2e demo bed-up bed-down bed-shell conformance packages crds docs

help: ## Show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: lint unit generated conformance e2e ## Everything that CI runs

lint: packages ## Format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --locked --workspace --all-targets -- -D warnings

unit: packages ## Unit, property and mock-API tests
	$(CARGO) test --quiet --locked --workspace

generated: ## Generated files are what the code generates
	@folder=$$(mktemp -d); trap 'rm -rf $$folder' EXIT; \
	$(CARGO) run --quiet --locked --package gpheal -- crds $$folder; \
	diff -ru crds $$folder || { echo "crds/ is not what 'make crds' writes; run it and commit"; exit 1; }; \
	$(CARGO) run --quiet --locked --package gpheal -- docs $$folder; \
	diff -u docs/refusals.md $$folder/refusals.md || { echo "docs/refusals.md is not what 'make docs' writes; run it and commit"; exit 1; }

docs: ## Write the documents that are made from the code into docs/
	$(CARGO) run --quiet --package gpheal -- docs docs

crds: ## Write the custom resource definitions into crds/
	$(CARGO) run --quiet --package gpheal -- crds crds

conformance: packages ## What gpheal relies on, and gpheal itself, on bare processes of the stand-in or of GPHOME
	$(CARGO) build --quiet --locked --package gpheal
	$(E2E) conformance
	$(CARGO) test --quiet --locked --package gpheal-e2e --test supervisor -- --ignored

e2e: packages ## Scenarios on the bed: all, or SCENARIO="name …"
	$(E2E) e2e -- run $(SCENARIO)

demo: packages ## Watch a cluster get hurt in three ways and heal
	$(E2E) e2e -- demo

bed-up: packages ## A real three-node Kubernetes on this machine
	$(E2E) bed -- up

bed-down: ## Take it away without a trace
	$(E2E) bed -- down

bed-shell: ## A shell whose kubectl talks to it
	$(E2E) bed -- shell

packages: ## What the build itself needs from Debian
	@missing=(); for package in gcc libc6-dev make; do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' || missing+=($$package); done; \
	if [ $${#missing[@]} -gt 0 ]; then echo "installing $${missing[*]}"; apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $${missing[@]} > /dev/null; fi
