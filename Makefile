# Everything here needs Go, make and git only. A C compiler adds the race run.

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
MODULE      := github.com/faultline-vm/faultline
LDFLAGS     := -X $(MODULE)/cli.version=$(VERSION)
BENCH_GROUPS ?= fault

# Packages whose tests run a second time under the race detector: those that
# share memory between goroutines.
RACE_PACKAGES ?= ./uffd/... ./memimage/... ./pager/... ./fcsim/... ./hypervisor/... ./internal/demo/...

export CGO_ENABLED = 0

.PHONY: build test vet lint demo bench clean

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/faultline ./cmd/faultline
	$(GO) build -trimpath -o bin/faultline-pager ./cmd/faultline-pager
	$(GO) build -trimpath -o bin/fcsim ./cmd/fcsim

vet:
	$(GO) vet ./...

# Formatting is checked by the tests of internal/lint.
test: vet
	@$(GO) build -o bin/testreport ./internal/testreport
	@bin/testreport -go $(GO) \
		-run 'tests: -count=1 -timeout=10m ./...' \
		-run 'race: -race -short -count=1 -timeout=10m $(RACE_PACKAGES)'

lint: vet
	$(GO) test -count=1 ./internal/lint
	@if command -v golangci-lint >/dev/null; then golangci-lint run; \
	else echo 'golangci-lint is not on PATH: its checks did not run'; fi

demo: build
	bin/faultline demo

bench: build
	@for group in $(BENCH_GROUPS); do bin/faultline bench $$group || exit 1; done

clean:
	rm -rf bin
