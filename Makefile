# Postern's build. `make help` lists what there is.

GO        ?= go
# The command that makes us root for what needs it; empty when we already are.
AS_ROOT   := $(if $(filter 0,$(shell id -u)),,sudo env "PATH=$(PATH)" "HOME=$(HOME)")
GOFLAGS   += -trimpath
# Nothing of the product is C but the BPF programs; only the race detector needs cgo.
CGO_ENABLED := 0
export GOFLAGS CGO_ENABLED

# Tests of the kernel side, tests that run the whole product, here and on a cluster, tests with goroutines that share memory.
KERNEL := ./bpf/... ./internal/redirect/... ./internal/workload/... ./internal/gate/...
E2E    := ./cmd/... ./testenv/...
NODE   := ./deploy/...
RACE   := ./internal/audit/... ./internal/identity/... ./internal/agent/... ./internal/cluster/... ./internal/gate/... ./internal/controller/... ./internal/sql/... ./proxy/...
UNIT   := -v -e /bpf -e /internal/redirect -e /internal/workload -e /internal/gate -e /cmd/ -e /testenv -e /deploy/
STRICT := POSTERN_TEST_STRICT=1

# The one-node Kubernetes of the tests is a module of its own. The packages listed
# are ours; the others are three lines each around all of Kubernetes.
CLUSTER          := testenv/cluster
CLUSTER_PACKAGES := . ./boot ./image ./layout ./node ./pause ./pki
CLUSTER_ENV      := env $(foreach v,POSTERN_CLUSTER POSTERN_CLUSTER_PROXY POSTERN_CLUSTER_BINARY,$(if $($(v)),"$(v)=$($(v))")) "GOFLAGS=$(GOFLAGS)"

# The oldest kernel that is served: a series that the machine's package sources have.
LINUX ?= 6.1

# Seconds of fuzzing in all, shared by every fuzz target.
FUZZ_SECONDS ?= 120

# What is released, by architecture: static, and the same bytes of the same commit and Go.
ARCHES   ?= amd64 arm64
RELEASE  := bin/release
VERSION   = $(shell sed -n 's/^const version = "\(.*\)"$$/\1/p' cmd/postern/version.go)
REVISION  = $(shell git rev-parse HEAD)
COMMITTED = $(shell git log -1 --format=%ct)
IMAGE    ?= localhost/postern:$(VERSION)

# Of a night: seconds of fuzzing, length of the soak test, series of kernels, how often what kills is run.
NIGHTLY_FUZZ   ?= 7200
NIGHTLY_SOAK   ?= 30m
NIGHTLY_LINUX  ?= 6.1 6.12
NIGHTLY_CRASHES ?= 20

.DEFAULT_GOAL := help
.PHONY: help demo test unit kernel kernel-oldest e2e race fuzz bench build generate fmt lint verify packages \
	cluster cluster-up cluster-down cluster-images cluster-test packages-cluster packages-kernel packages-image \
	programs image release unchanged nightly

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build packages ## guard an unmodified psql and an AutoGen agent on this machine, start to finish
	@$(GO) build -o bin/demo ./testenv/demo
	@$(AS_ROOT) bin/demo

test: packages unit kernel e2e race fuzz ## run every test, as root, installing what it lacks

unit: ## run the tests that need Go alone; others say what they miss
	@packages=$$($(GO) list ./...) && set -x && $(GO) test $$(printf '%s\n' $$packages | grep $(UNIT))

kernel: ## run the tests of the kernel side and of the gate on the running kernel, as root
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test -p 1 $(KERNEL)

kernel-oldest: packages-kernel ## run them on the oldest kernel, under QEMU (LINUX=6.12: on that one)
	@$(GO) build -o bin/kernel ./testenv/kernel
	@bin/kernel -kernel $(LINUX) -limit 40m -arguments "-test.short -test.timeout=35m" $(KERNEL)

e2e: packages build cluster-images ## run the tests of the whole product, as root, here and on a real Kubernetes
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test $(E2E)
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test -count 1 -timeout 40m -v $(NODE)

race: packages ## run the tests of what starts goroutines under the race detector, as root
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=1 "GOFLAGS=$(GOFLAGS)" $(GO) test -race -timeout 30m $(RACE)

fuzz: ## fuzz decoders for FUZZ_SECONDS in all, other ones with each commit
	testenv/fuzz $(FUZZ_SECONDS)

bench: build packages ## measure the overhead against a direct connection and print the README's table
	@$(GO) build -o bin/bench ./testenv/bench
	@$(AS_ROOT) bin/bench

build: ## build bin/postern
	@echo "build: bin/postern"
	@$(GO) build -o bin/postern ./cmd/postern

programs:
	@rm -rf $(RELEASE)
	@set -e; for arch in $(ARCHES); do echo "build: $(RELEASE)/postern-linux-$$arch"; \
		GOOS=linux GOARCH=$$arch $(GO) build -ldflags "-s -w" -o $(RELEASE)/postern-linux-$$arch ./cmd/postern; done

image: packages-image programs ## build the image IMAGE for ARCHES into an archive; PUSH=1: to its registry, too
	@$(AS_ROOT) env "PUSH=$(PUSH)" deploy/image $(IMAGE) $(RELEASE) $(VERSION) $(REVISION) $(COMMITTED)

release: unchanged image ## build what is released of a commit: programs, image, chart, their checksums
	@tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@$(COMMITTED) \
		--transform 's,^deploy/chart,postern,' -c deploy/chart | gzip -n >$(RELEASE)/postern-$(VERSION).tgz
	@cd $(RELEASE) && sha256sum postern-* >SHA256SUMS && cat SHA256SUMS

unchanged:
	@test -z "$$(git status --porcelain)" || { echo "release: the tree differs from its commit"; git status --short; exit 1; }

nightly: packages build ## what takes hours: long fuzzing, soak, crashes and churn, older kernels, a release made twice
	$(MAKE) fuzz FUZZ_SECONDS=$(NIGHTLY_FUZZ)
	$(AS_ROOT) env $(STRICT) POSTERN_TEST_SOAK=$(NIGHTLY_SOAK) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test -count 1 -timeout 24h -v -run Soak ./cmd/postern
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test -count $(NIGHTLY_CRASHES) -timeout 24h -run 'Killed|Crash|Restart' ./cmd/postern ./internal/audit ./internal/gate ./internal/redirect
	$(AS_ROOT) env $(STRICT) CGO_ENABLED=0 "GOFLAGS=$(GOFLAGS)" $(GO) test -count 1 -timeout 24h -v -run 'Churn' ./internal/gate ./internal/redirect
	@set -e; for series in $(NIGHTLY_LINUX); do $(MAKE) kernel-oldest LINUX=$$series; done
	testenv/release-twice

generate: ## rebuild the BPF objects and their bindings (needs clang), and the custom resources
	$(GO) generate ./bpf
	$(GO) tool controller-gen crd paths=./internal/policy output:crd:dir=deploy/chart/crds

fmt: ## format the Go code
	gofmt -w bpf cmd deploy internal proxy testenv

lint: ## check format, vet, go fix and staticcheck
	@test -z "$$(gofmt -l bpf cmd deploy internal proxy testenv)" || { echo "not formatted, run make fmt:"; gofmt -l bpf cmd deploy internal proxy testenv; exit 1; }
	$(GO) vet ./...
	@out=$$($(GO) fix -diff ./...) || true; test -z "$$out" || { echo "$$out"; echo "outdated, run go fix ./..."; exit 1; }
	$(GO) tool staticcheck -checks all ./...
	cd $(CLUSTER) && $(GO) vet $(CLUSTER_PACKAGES)
	@cd $(CLUSTER) && out=$$($(GO) fix -diff $(CLUSTER_PACKAGES)) || true; test -z "$$out" || { echo "$$out"; echo "outdated, run go fix in $(CLUSTER)"; exit 1; }
	staticcheck=$$($(GO) tool -n staticcheck) && cd $(CLUSTER) && $$staticcheck -checks all $(CLUSTER_PACKAGES)

verify: generate ## rebuild what is generated and fail if it differs from what is committed
	$(GO) mod tidy
	cd $(CLUSTER) && $(GO) mod tidy
	cd testenv/helm && $(GO) mod tidy
	git diff --exit-code

packages: ## install what demo and tests need from the distribution
	@$(AS_ROOT) testenv/packages

packages-kernel:
	@$(AS_ROOT) testenv/packages --kernel-oldest

packages-image:
	@$(AS_ROOT) testenv/packages --image

packages-cluster:
	@$(AS_ROOT) testenv/packages --cluster

cluster:
	@cd $(CLUSTER) && $(GO) build -o out/bin/cluster .

cluster-up: packages-cluster cluster ## start a one-node Kubernetes on this machine, with images of this tree
	@$(AS_ROOT) $(CLUSTER_ENV) $(CLUSTER)/out/bin/cluster up

cluster-down: cluster ## end it; nothing is left but what was built and its logs
	@$(AS_ROOT) $(CLUSTER_ENV) $(CLUSTER)/out/bin/cluster down

cluster-images: packages-cluster cluster ## build its programs and images (cold: ten minutes of two cores)
	@$(AS_ROOT) $(CLUSTER_ENV) $(CLUSTER)/out/bin/cluster images

cluster-test: cluster-images ## test it: start, pods, names, tokens, reboot, and that nothing is left
	cd $(CLUSTER) && $(AS_ROOT) env $(STRICT) CGO_ENABLED=0 $(CLUSTER_ENV) $(GO) test -count 1 $(CLUSTER_PACKAGES)
