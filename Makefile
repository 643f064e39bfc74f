# drayage: build, demo, tests. `make help` lists the targets.

GO      ?= go
TOOLS   := $(CURDIR)/.tools
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

GOLANGCI_LINT := v2.15.0
DISTRIBUTION  := v3.1.2
CONTAINERD    := v2.4.2
CRANE         := v0.22.1
REGCTL        := v0.11.7
ORAS          := v1.3.6
CONFORMANCE   := v0.0.0-20260831232431-97274622c111
AXE           := 4.14.1
AXE_SUM       := e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
FUZZTIME      ?= 20s
SOAKTIME      ?= 1m
SCHEDULES     ?= 5000
SEED          ?= 1

# What is built for, and where tests run on other processors than this one's.
PLATFORMS := linux/amd64 linux/arm64 linux/arm linux/386 linux/s390x linux/ppc64le linux/riscv64 \
             darwin/amd64 darwin/arm64 freebsd/amd64 freebsd/arm64 windows/amd64
EMULATED  := arm s390x
PORTABLE  := $(addprefix ./engine/,archive compose credential fault image internal/retry internal/schedule mirror plan printable reference registry/... textfile) \
             ./cmd/drayage/internal/history ./cmd/drayage/internal/warm ./blobstore/... ./tarwriter/...

.PHONY: help build cross demo test emulated race-detector cover lint structure fuzz soak bench race interop page notices loaders clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## build bin/drayage, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X drayage/cmd/drayage/internal/build.version=$(VERSION)' -o bin/drayage ./cmd/drayage

cross: ## compile for every platform, and for Windows the tests as well
	@set -e; for p in $(PLATFORMS); do echo $$p; GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) build ./...; done
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 $(GO) vet ./...

demo: build ## pull several images from a registry on this machine into demo.tar, and check it
	CGO_ENABLED=0 $(GO) build -o bin/demo ./cmd/demo
	bin/demo -drayage bin/drayage -o demo.tar

test: ## run all tests that need nothing but Go
	$(GO) test -timeout 20m ./...

emulated: ## the portable tests on a 32-bit and a big-endian processor, by qemu-user
	@set -e; for a in $(EMULATED); do echo $$a; \
	  GOARCH=$$a CGO_ENABLED=0 $(GO) test -short -timeout 15m -exec qemu-$$a $(PORTABLE); done

race-detector: ## the same under the race detector (needs a C compiler)
	$(GO) test -race -timeout 20m ./...

cover: ## what the tests cover, as coverage.html
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	$(GO) tool cover -func=coverage.out | tail -n 1
	$(GO) tool cover -html=coverage.out -o coverage.html

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_LINT) ## run the linters
	$< run ./...

structure: ## measure the code's structure: packages, exported names, functions, tests
	$(GO) run ./cmd/structure -v

fuzz: ## run each fuzz test for FUZZTIME (20s)
	@set -e; for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$p; done; done

soak: ## thousands of bad links and power cuts under the race detector, then each fuzz test for SOAKTIME (1m; needs a C compiler)
	$(GO) test -race -timeout 60m ./engine -run 'AnySchedule|PowerCuts' -schedules $(SCHEDULES) -seed $(SEED)
	$(GO) test -race -timeout 30m -count 5 ./cmd/drayage -run 'Kill|Damage'
	$(MAKE) fuzz FUZZTIME=$(SOAKTIME)

bench: build $(TOOLS)/crane ## measure against yardsticks in the same run
	-bash cmd/drayage/testdata/interop/setup.sh
	CGO_ENABLED=0 $(GO) build -o bin/bars ./bench/bars
	bin/bars -drayage bin/drayage

race: build $(TOOLS)/crane $(TOOLS)/regctl $(TOOLS)/oras $(TOOLS)/containerd-$(CONTAINERD) ## pull beside crane, skopeo, regctl, oras, containerd, docker, aria2c and curl, into docs/benchmarks.md
	-bash cmd/drayage/testdata/interop/setup.sh
	CGO_ENABLED=0 $(GO) build -o bin/race ./bench/race
	bin/race -drayage bin/drayage -tools $(TOOLS) -containerd $(CONTAINERD) -o docs/benchmarks.md

interop: build $(TOOLS)/registry-$(DISTRIBUTION) $(TOOLS)/containerd-$(CONTAINERD) $(TOOLS)/ggcr $(TOOLS)/crane $(TOOLS)/oras $(TOOLS)/browser $(TOOLS)/kube $(TOOLS)/conformance-$(CONFORMANCE) ## test against real registries and real loaders
	bash cmd/drayage/testdata/interop/setup.sh
	DRAYAGE_INTEROP=$(TOOLS) $(GO) test -tags interop -count=1 -timeout 15m -run Interop -v ./cmd/drayage

page: build $(TOOLS)/browser $(TOOLS)/axe-$(AXE).js ## look at the report's page in Chromium, with axe (from npm's registry)
	bash cmd/drayage/testdata/interop/setup.sh
	DRAYAGE_INTEROP=$(TOOLS) DRAYAGE_AXE=$(TOOLS)/axe-$(AXE).js $(GO) test -tags interop -count=1 -timeout 15m -run InteropPage -v ./cmd/drayage

notices: ## write the licences of what is linked into the program anew, into cmd/drayage/notices.txt
	$(GO) test -count=1 -run Notices ./cmd/drayage -notices

loaders: build $(TOOLS)/containerd-$(CONTAINERD) $(TOOLS)/ggcr ## write the table of what loads where anew, into docs/archive-layouts.md
	bash cmd/drayage/testdata/interop/setup.sh
	DRAYAGE_INTEROP=$(TOOLS) $(GO) test -tags interop -count=1 -timeout 15m -run InteropMatrix ./cmd/drayage -table

clean: ## remove what was built
	rm -rf bin .tools demo.tar demo.tar.drayage-part coverage.out coverage.html

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/registry-$(DISTRIBUTION):
	GOBIN=$(TOOLS) $(GO) install github.com/distribution/distribution/v3/cmd/registry@$(DISTRIBUTION)
	mv $(TOOLS)/registry $@

$(TOOLS)/containerd-$(CONTAINERD):
	GOBIN=$(TOOLS) $(GO) install github.com/containerd/containerd/v2/cmd/ctr@$(CONTAINERD)
	GOBIN=$(TOOLS) $(GO) install github.com/containerd/containerd/v2/cmd/containerd@$(CONTAINERD)
	mv $(TOOLS)/ctr $(TOOLS)/ctr-$(CONTAINERD)
	mv $(TOOLS)/containerd $@

$(TOOLS)/ggcr: $(wildcard cmd/drayage/testdata/interop/ggcr/*)
	cd cmd/drayage/testdata/interop/ggcr && $(GO) build -o $@ .

$(TOOLS)/browser: $(wildcard cmd/drayage/testdata/interop/browser/*)
	cd cmd/drayage/testdata/interop/browser && $(GO) build -o $@ .

$(TOOLS)/kube: $(wildcard cmd/drayage/testdata/interop/kube/*)
	cd cmd/drayage/testdata/interop/kube && $(GO) build -o $@ .

$(TOOLS)/axe-$(AXE).js:
	mkdir -p $(TOOLS)
	curl -sSfL -o $@.tgz https://registry.npmjs.org/axe-core/-/axe-core-$(AXE).tgz
	echo '$(AXE_SUM)  $@.tgz' | sha256sum -c --quiet
	tar -xzOf $@.tgz package/axe.min.js > $@.part && mv $@.part $@
	rm $@.tgz

$(TOOLS)/conformance-$(CONFORMANCE):
	GOBIN=$(TOOLS) $(GO) install github.com/opencontainers/distribution-spec/conformance@$(CONFORMANCE)
	mv $(TOOLS)/conformance $@

$(TOOLS)/regctl:
	GOBIN=$(TOOLS) $(GO) install github.com/regclient/regclient/cmd/regctl@$(REGCTL)

$(TOOLS)/oras:
	GOBIN=$(TOOLS) $(GO) install oras.land/oras/cmd/oras@$(ORAS)

$(TOOLS)/crane:
	GOBIN=$(TOOLS) $(GO) install github.com/google/go-containerregistry/cmd/crane@$(CRANE)
