# `make help` names the targets. Everything is built into a cache outside the checkout, so that a
# fresh clone on a warm machine does not start from nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GPHEAL_CACHE ?= /var/cache/gpheal
CARGO_TARGET_DIR ?= $(GPHEAL_CACHE)/target
export GPHEAL_CACHE CARGO_TARGET_DIR
CARGO ?= cargo
# One choice of packages for every build: another would unify features otherwise and compile half of everything anew.
BIN = $(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/debug
SCENARIO ?=

.DEFAULT_GOAL := help
.PHONY: help test lint unit generated sample e2e e2e-all demo bed-up bed-down bed-shell conformance packages crds docs config chart build figures bed-test

help: ## Show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: lint unit generated sample e2e ## Everything that CI runs: of what takes hours a sample

build: packages ## Everything, into the cache
	$(CARGO) build --quiet --locked --workspace --bins

lint: packages ## Format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --locked --workspace --all-targets -- -D warnings

unit: packages ## Unit, property and mock-API tests
	$(CARGO) test --quiet --locked --workspace

generated: chart ## Generated files are what the code and the chart generate
	@folder=$$(mktemp -d); trap 'rm -rf $$folder' EXIT; \
	$(BIN)/gpheal crds $$folder; \
	for copy in crds charts/gpheal/files/crds; do diff -ru --exclude=kustomization.yaml $$copy $$folder \
	  || { echo "$$copy is not what 'make crds' writes; run it and commit"; exit 1; }; done; \
	for scope in default namespaced; do $(call manifests,$$scope) | diff -u config/$$scope/gpheal.yaml - \
	  || { echo "config/ is not what 'make config' writes; run it and commit"; exit 1; }; done; \
	$(BIN)/gpheal docs $$folder; \
	for page in refusals messages; do diff -u docs/$$page.md $$folder/$$page.md \
	  || { echo "docs/$$page.md is not what 'make docs' writes; run it and commit"; exit 1; }; done

docs: build ## Write the documents that are made from the code into docs/
	$(BIN)/gpheal docs docs

crds: build ## Write the custom resource definitions into crds/ and the chart
	$(BIN)/gpheal crds crds
	$(BIN)/gpheal crds charts/gpheal/files/crds

HELM = $(BIN)/bed helm
# Plain manifests of the operator for $(1), as the chart makes them.
manifests = { echo "\# Generated from charts/gpheal by 'make config'; do not edit."; \
  $(HELM) template gpheal charts/gpheal --namespace gpheal-system --values charts/gpheal/ci/$(1).yaml; }

config: build ## Write the operator's manifests of config/ from the chart
	for scope in default namespaced; do $(call manifests,$$scope) > config/$$scope/gpheal.yaml; done

chart: build ## The chart with every kind of values, and with what it has to refuse
	@for values in charts/gpheal/ci/*.yaml; do $(HELM) lint --strict --quiet charts/gpheal --values $$values; \
	  $(HELM) template gpheal charts/gpheal --values $$values > /dev/null; done
	@for wrong in replica=2 watch.namespace=demo image.tags=1 secrets[0].namespace=demo replicas=0 image.repository= \
	  serviceAccount.create=false watch.namespaces={a},secrets[0].namespace=b,secrets[0].names={c}; do \
	  if $(HELM) template gpheal charts/gpheal --set "image.repository=gpheal,$$wrong" > /dev/null 2>&1; then \
	    echo "the chart accepts --set $$wrong"; exit 1; fi; done

conformance: build ## What gpheal relies on, and gpheal itself, on bare processes of the stand-in or of GPHOME
	$(BIN)/conformance $(if $(SAMPLE),--sample)
	$(CARGO) test --quiet --locked --workspace --test supervisor -- --ignored

sample: SAMPLE = yes
sample: conformance ## The same, without the checks that wait long

e2e: build ## Scenarios on the bed: those that run with every change, or SCENARIO="name …"
	$(BIN)/e2e run $(or $(SCENARIO),--sample)

e2e-all: conformance ## Every check of the conformance suite, and every scenario on the bed
	$(BIN)/e2e run

demo: build ## Watch a cluster get hurt in three ways and heal
	$(BIN)/e2e demo

figures: build ## What healing costs, beside the same by hand (25 min, once compiled); writes docs/performance.md
	$(BIN)/e2e figures

bed-test: packages ## The bed's own test, on a bed beside
	$(CARGO) test --quiet --locked --workspace --test bed -- --ignored

bed-up: build ## A real three-node Kubernetes on this machine
	$(BIN)/bed up

bed-down: build ## Take it away without a trace
	$(BIN)/bed down

bed-shell: build ## A shell whose kubectl talks to it
	$(BIN)/bed shell

packages: ## What the build itself needs from Debian
	@missing=(); for package in gcc libc6-dev make; do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' || missing+=($$package); done; \
	if [ $${#missing[@]} -gt 0 ]; then echo "installing $${missing[*]}"; apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $${missing[@]} > /dev/null; fi
