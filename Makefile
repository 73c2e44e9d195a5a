# Everything here needs Go, make and git only. A C compiler adds the race run.

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
MODULE      := github.com/faultline-vm/faultline
LDFLAGS     := -X $(MODULE)/cli.version=$(VERSION)
BENCH_GROUPS ?= fault capture manager recovery
BIN         ?= bin

# Where make install puts things: programs and units below PREFIX, the configuration
# into SYSCONFDIR. DESTDIR is put in front of both, for packages.
DESTDIR       ?=
PREFIX        ?= /usr/local
SYSCONFDIR    ?= /etc
PAGER_VERSION := $(shell cat pager/VERSION)
UNITS         := faultline.service faultline-pager@.service

# A Debian with systemd for make test-systemd: made once, about 250 MB.
SYSTEMD_ROOT ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/faultline/systemd-root

# Packages whose tests run a second time under the race detector: those that
# share memory between goroutines.
RACE_PACKAGES ?= ./uffd/... ./memimage/... ./pager/... ./fcsim/... ./hypervisor/... ./api/... \
	./internal/daemon/... ./internal/demo/... ./internal/pidfd ./internal/sdnotify ./internal/talk

# Tests of captures and instances that do, too: the other ones wait for disks or crash
# processes, and the detector sees nothing of that.
RACE_TESTS ?= AnyOrderOfLife|StagedCaptures|Random|Upkeep|Gate|Forks|Pager

export CGO_ENABLED = 0

.PHONY: build test vet lint demo bench chaos clean install uninstall check-pager-version test-systemd

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/faultline ./cmd/faultline
	$(GO) build -trimpath -o $(BIN)/faultline-pager ./cmd/faultline-pager
	$(GO) build -trimpath -o $(BIN)/fcsim ./cmd/fcsim

vet:
	$(GO) vet ./...

# Formatting is checked by the tests of internal/lint.
test: vet
	@$(GO) build -o bin/testreport ./internal/testreport
	@bin/testreport -go $(GO) \
		-run 'tests: -count=1 -timeout=10m ./...' \
		-run 'race: -race -short -count=1 -timeout=10m $(RACE_PACKAGES)' \
		-run 'race of their life: -race -short -count=1 -timeout=10m -run=$(RACE_TESTS) ./capture ./instance'

lint: vet
	$(GO) test -count=1 ./internal/lint
	@if command -v golangci-lint >/dev/null; then golangci-lint run; \
	else echo 'golangci-lint is not on PATH: its checks did not run'; fi

demo: build
	bin/faultline demo

# All of it takes long: CHAOS_FLAGS='--budget 10m', or '--only kill', takes a part.
chaos: build
	$(BIN)/faultline chaos $(CHAOS_FLAGS)

bench: build
	@for group in $(BENCH_GROUPS); do bin/faultline bench $$group || exit 1; done

# The pager lies under its version, so that other versions stay while their pagers
# run; bin has a link to the one that was installed last. A configuration that is
# there is kept.
install: build
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib/faultline/pager/$(PAGER_VERSION)' \
		'$(DESTDIR)$(PREFIX)/lib/systemd/system' '$(DESTDIR)$(SYSCONFDIR)/faultline'
	install -m 755 $(BIN)/faultline $(BIN)/fcsim '$(DESTDIR)$(PREFIX)/bin/'
	install -m 755 $(BIN)/faultline-pager '$(DESTDIR)$(PREFIX)/lib/faultline/pager/$(PAGER_VERSION)/faultline-pager.new'
	cd '$(DESTDIR)$(PREFIX)/lib/faultline/pager/$(PAGER_VERSION)' && mv -f faultline-pager.new faultline-pager
	ln -sfn '../lib/faultline/pager/$(PAGER_VERSION)/faultline-pager' '$(DESTDIR)$(PREFIX)/bin/faultline-pager'
	for unit in $(UNITS); do \
		sed 's,/usr/local/,$(PREFIX)/,; s, /etc/, $(SYSCONFDIR)/,' deploy/systemd/$$unit > $(BIN)/$$unit && \
		install -m 644 $(BIN)/$$unit '$(DESTDIR)$(PREFIX)/lib/systemd/system/' || exit 1; done
	$(BIN)/faultline config sample > $(BIN)/config.yaml
	test -e '$(DESTDIR)$(SYSCONFDIR)/faultline/config.yaml' || \
		install -m 644 $(BIN)/config.yaml '$(DESTDIR)$(SYSCONFDIR)/faultline/'

# All versions of the pager go. Data and a configuration that was changed stay.
uninstall:
	if '$(DESTDIR)$(PREFIX)/bin/faultline' config sample 2>/dev/null | \
		cmp -s - '$(DESTDIR)$(SYSCONFDIR)/faultline/config.yaml'; then \
		rm '$(DESTDIR)$(SYSCONFDIR)/faultline/config.yaml'; fi
	rm -f '$(DESTDIR)$(PREFIX)/bin/faultline' '$(DESTDIR)$(PREFIX)/bin/faultline-pager' '$(DESTDIR)$(PREFIX)/bin/fcsim'
	cd '$(DESTDIR)$(PREFIX)/lib/systemd/system' 2>/dev/null && rm -f $(UNITS) || true
	rm -rf '$(DESTDIR)$(PREFIX)/lib/faultline'
	rmdir '$(DESTDIR)$(SYSCONFDIR)/faultline' 2>/dev/null || true

# BASE is the revision to compare with; without it the last release.
check-pager-version:
	$(GO) run ./internal/pagerversion -base '$(BASE)'

# Root, systemd-nspawn and debootstrap are needed.
test-systemd: $(SYSTEMD_ROOT)/usr/lib/systemd/systemd
	FAULTLINE_SYSTEMD_ROOT='$(SYSTEMD_ROOT)' $(GO) test -count=1 -v -timeout=10m ./e2e/systemd

$(SYSTEMD_ROOT)/usr/lib/systemd/systemd:
	mkdir -p '$(dir $(SYSTEMD_ROOT))'
	rm -rf '$(SYSTEMD_ROOT).new'
	debootstrap --variant=minbase --include=systemd,systemd-sysv stable '$(SYSTEMD_ROOT).new' http://deb.debian.org/debian
	mv '$(SYSTEMD_ROOT).new' '$(SYSTEMD_ROOT)'

clean:
	rm -rf bin
