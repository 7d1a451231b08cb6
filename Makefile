# Postern's build. `make help` lists what there is.

GO        ?= go
# The command that makes us root for what needs it; empty when we already are.
AS_ROOT   := $(if $(filter 0,$(shell id -u)),,sudo env "PATH=$(PATH)" "HOME=$(HOME)")
GOFLAGS   += -trimpath
# Nothing of the product is C but the BPF programs; only the race detector needs cgo.
CGO_ENABLED := 0
export GOFLAGS CGO_ENABLED

# Tests of the kernel side, tests that run the whole product, tests with goroutines that share memory.
KERNEL := ./bpf/... ./internal/redirect/...
E2E    := ./cmd/... ./testenv/...
RACE   := ./internal/audit/... ./internal/identity/... ./internal/agent/... ./internal/sql/... ./proxy/...
UNIT    = $(shell $(GO) list ./... 2>/dev/null | grep -v -e /bpf -e /internal/redirect -e /cmd/ -e /testenv)
STRICT := POSTERN_TEST_STRICT=1

# Seconds of fuzzing in all, shared by every fuzz target.
FUZZ_SECONDS ?= 120

.DEFAULT_GOAL := help
.PHONY: help demo test unit kernel e2e race fuzz bench build generate fmt lint verify packages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build packages ## guard an unmodified psql on this machine, start to finish, in under a minute
	@$(GO) build -o bin/demo ./testenv/demo
	@$(AS_ROOT) bin/demo

test: packages unit kernel e2e race fuzz ## run every test, as root, installing what it lacks

unit: ## run the tests that need Go alone; others say what they miss
	$(GO) test $(UNIT)

kernel: ## run the redirect tests on the running kernel, as root
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test $(KERNEL)

e2e: packages ## run the tests of the whole product, as root
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test $(E2E)

race: packages ## run the tests of what starts goroutines under the race detector, as root
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=1 "GOFLAGS=$(GOFLAGS)" $(GO) test -race -timeout 30m $(RACE)

fuzz: ## fuzz every decoder for FUZZ_SECONDS in all
	testenv/fuzz $(FUZZ_SECONDS)

bench: build packages ## measure the overhead against a direct connection and print the README's table
	@$(GO) build -o bin/bench ./testenv/bench
	@$(AS_ROOT) bin/bench

build: ## build bin/postern
	@echo "build: bin/postern"
	@$(GO) build -o bin/postern ./cmd/postern

generate: ## rebuild the BPF objects and their bindings (needs clang), and the custom resources
	$(GO) generate ./bpf
	$(GO) tool controller-gen crd paths=./internal/policy output:crd:dir=deploy/chart/crds

fmt: ## format the Go code
	gofmt -w bpf cmd internal proxy testenv

lint: ## check format, vet, go fix and staticcheck
	@test -z "$$(gofmt -l bpf cmd internal proxy testenv)" || { echo "not formatted, run make fmt:"; gofmt -l bpf cmd internal proxy testenv; exit 1; }
	$(GO) vet ./...
	@out=$$($(GO) fix -diff ./...) || true; test -z "$$out" || { echo "$$out"; echo "outdated, run go fix ./..."; exit 1; }
	$(GO) tool staticcheck -checks all ./...

verify: generate ## rebuild what is generated and fail if it differs from what is committed
	$(GO) mod tidy
	git diff --exit-code

packages: ## install what demo and tests need from the distribution
	@$(AS_ROOT) testenv/packages
