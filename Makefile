# What a developer, a user and CI do with this tree. `make help` lists it.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X ashlar.dev/pkg/telemetry.productVersion=$(VERSION)

# Tests that start real daemons or measure are run by targets of their own. Rooms and worlds
# in which one goroutine does everything gain nothing from the race detector; with it the crash tests
# of a store cut the power before few syncs, without it before each.
SEQUENTIAL   := bench/(crash|sim)|blockd/volume/coretest|metad/(state|placement|reconcile)|pkg/(layers|segment|record|codec|storeproto/core)
UNIT_PACKAGES = $$(go list ./... | grep -vE '^ashlar.dev/(bench/(perf|upgrade)|$(SEQUENTIAL))(/|$$)')
UNIT_SEQUENTIAL = $$(go list ./... | grep -E '^ashlar.dev/($(SEQUENTIAL))$$')

FUZZ_SECONDS  ?= 2
LANES         ?= 2
CHAOS_SECONDS ?= 120
NBD_CLIENTS   := TestNbdinfo|TestCopyThereAndBack|TestQemu|TestToolsOverTLS|TestImagesComeBack|TestDiskOverTLS|TestExporterRestartedInPlace|TestKernel
SEED          ?=
MUTANT        ?=
SEEDS         ?= 1000
FROM          ?= 1

.PHONY: help build unit fuzz e2e s3 test lint bench bench-sharing chaos crash newer upgrade sim history sim-mutants mutants demo generate tools clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1|\2/' | column -t -s '|'

build: ## build ashlar, metad, blockd and snapshotd into ./bin
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./pkg/cli/ashlar ./metad ./blockd ./snapshotd

unit: ## unit, model and crash tests with the race detector (under a minute when warm)
	go test -race -timeout 10m $(UNIT_PACKAGES)
	go test -timeout 10m $(UNIT_SEQUENTIAL)
	go test -timeout 10m -run TestCrash ./blockd/chunk

fuzz: ## a short run of every fuzzer (FUZZ_SECONDS each)
	deploy/dev/fuzz $(FUZZ_SECONDS)

e2e: build tools ## real tools against real daemons, in two lanes (LANES=1: one, which holds the marks of times)
	deploy/dev/e2e $(LANES)

s3: build tools bin/tools/versitygw ## the archive in a real S3 server over TLS (e2e runs this, too, where the server is built)
	go test -tags e2e -count=1 -timeout 15m -run 'TestArchiveInS3|TestLocked' ./bench/e2e/

newer: build tools bin/tools/newer ## clients of the next Debian release: QEMU 10 and libnbd 1.22, with extended headers, and Linux's own (unpacked once)
	PATH="$(CURDIR)/bin/tools/newer/bin:$$PATH" NEWER="$(CURDIR)/bin/tools/newer" go test -tags e2e -count=1 -timeout 10m -run '$(NBD_CLIENTS)' ./bench/e2e/

test: tools ## everything that must pass: unit, fuzz, e2e (installs what it needs)
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory fuzz
	$(MAKE) --no-print-directory e2e

lint: bin/tools/staticcheck ## gofmt, vet, staticcheck, layering and habits, files made from source, commit subjects
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' | xargs -r ls -d 2>/dev/null)); \
	if [ -n "$$bad" ]; then echo "not formatted, run gofmt -w on:"; echo "$$bad"; exit 1; fi
	go vet ./...
	go vet -tags e2e,chaos,mutants,upgrade ./bench/...
	bin/tools/staticcheck ./...
	go test ./pkg/layers/...
	deploy/dev/tracked-files
	deploy/dev/generated-files
	deploy/dev/commit-subjects

bench: build tools ## measure speed beside other servers; results go where bench/perf/README.md says
	bench/perf/run

bench-sharing: build tools ## measure limits, neighbours and repair beside clients (WHAT: qos, cost, neighbour, repair; BEFORE: binaries to compare)
	@mkdir -p bin/bench
	CGO_ENABLED=0 go build -o bin/bench/sharing ./bench/perf/sharing
	BEFORE="$(BEFORE)" bin/bench/sharing $(WHAT)

chaos: build tools ## seeded histories under kills, pauses and partitions (CHAOS_SECONDS, SEED)
	CHAOS_SECONDS=$(CHAOS_SECONDS) SEED=$(SEED) go test -tags chaos -count=1 -v -run TestChaos -timeout $$(( $(CHAOS_SECONDS) + 600 ))s ./bench/chaos

upgrade: build tools ## a cluster of an earlier commit becomes one of this tree, daemon by daemon, under I/O (UPGRADE_FROM)
	go test -tags upgrade -count=1 -v -timeout 15m ./bench/upgrade

crash: ## engine and stores as they ship lose power again and again (CUTS, SEED)
	CUTS=$(CUTS) SEED=$(SEED) go test -count=1 -v -timeout 60m ./bench/crash

sim: ## the whole cluster under one seed after the other, everything going wrong (SEEDS, FROM the first, SEED for one)
	SEEDS=$(SEEDS) FROM=$(FROM) SEED=$(SEED) go test -count=1 -v -timeout 60m -run 'TestWorlds|TestSameSeedSameTrace' ./bench/sim

history: ## disks with snapshots, clones, rollbacks, archives and restores against flat bytes (SEEDS, FROM the first, SEED for one)
	SEED=$(or $(SEED),$(FROM)) SEEDS=$(if $(SEED),1,$(SEEDS)) go test -count=1 -v -timeout 60m ./bench/history

sim-mutants: ## break one rule after the other and see that the worlds of make sim notice (MUTANT: part of a name)
	MUTANT="$(MUTANT)" go test -tags mutants -count=1 -v -timeout 60m -run TestTheWorldsNoticeMutants ./bench/mutants

mutants: ## break one rule after the other and see that the simulations notice (MUTANT: part of a name)
	MUTANT="$(MUTANT)" go test -tags mutants -count=1 -v -timeout 30m -run TestEveryMutantIsCaught ./bench/mutants

demo: build tools ## a cluster on this machine, a disk, a killed daemon, everything still there
	bench/demo/run

generate: ## remake everything made from source: protocol code, config reference, examples
	@deploy/dev/install-tools protoc:protobuf-compiler
	go generate ./...

tools: ## install the programs that tests and demo use (apt-get, as root, only what is missing)
	@deploy/dev/install-tools

clean: ## remove ./bin
	rm -rf bin

bin/tools/versitygw: # three minutes of a processor, once
	@mkdir -p bin/tools
	GOBIN=$(CURDIR)/bin/tools go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

bin/tools/newer: deploy/dev/newer-clients
	deploy/dev/newer-clients $@

bin/tools/staticcheck: tools/go.mod tools/go.sum
	@mkdir -p bin/tools
	cd tools && go build -o ../bin/tools/staticcheck honnef.co/go/tools/cmd/staticcheck
