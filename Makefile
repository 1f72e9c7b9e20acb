# The front of the build: Meson and ninja for C, cargo for engine/. `make run` and `make test` do
# every step that a fresh Debian 12 machine needs.
.PHONY: run test build setup check docs

run: build
	@echo "serving examples/weir.yaml on :8080; try:"
	@echo "  curl -X POST localhost:8080/api/exec/add -d '[2.5,3.7]'     # 6.2"
	@echo "  a WebSocket client on ws://localhost:8080/ws/echo (through a guest) or /ws/raw"
	@echo "  curl localhost:8080/hello; curl localhost:6060/metrics"
	@build/weir serve examples/weir.yaml

setup:
	@scripts/setup

build: setup
	@engine/build build/engine
	@[ -f build/build.ninja ] || meson setup build >build/meson.out 2>&1 || { cat build/meson.out; exit 1; }
	@ninja -C build --quiet

test: build
	@scripts/test

docs: build
	build/weir docs config >docs/CONFIG.md
	build/weir docs metrics >docs/METRICS.md
