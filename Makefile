# The front of the build: Meson and ninja for C, cargo for engine/. `make run` and `make test` do
# every step that a fresh Debian 12 machine needs.
.PHONY: run test build docs bench image image-size

PATH := $(PATH):$(HOME)/.cargo/bin
export PATH

run: build
	@printf '%s\n' 'serving examples/weir.yaml on :8080; try:' \
	  "  curl -X POST localhost:8080/api/exec/add -d '[2.5,3.7]'     # 6.2, by a guest" \
	  '  curl localhost:8080/hello?name=you                          # HTTP, by a guest' \
	  '  a WebSocket client on ws://localhost:8080/ws/echo (a guest), /ws/counter (a guest with' \
	  '  state) or /ws/raw (built in); curl localhost:6060/metrics; Ctrl-C ends it'
	@exec build/weir serve examples/weir.yaml

build:
	@scripts/setup
	@engine/build build/engine
	@[ -f build/build.ninja ] || { rm -rf build/meson-*; meson setup build >build/meson.out 2>&1; } || { cat build/meson.out; exit 1; }
	@ninja -C build --quiet

test:
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	@scripts/test

docs: build
	@for page in config metrics errors logs guest wasi; do \
	  build/weir docs $$page >docs/$$(echo $$page | tr '[:lower:]' '[:upper:]').md; done

bench: build
	bench/run

# The container images, each with its size; BASE=IMAGE builds in that one (docs/DEPLOY.md).
image:
	@scripts/setup test >&2
	@deploy/image runtime full

image-size:
	@scripts/setup test >&2
	@deploy/image runtime
