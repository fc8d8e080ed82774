# `make help` lists the targets. Everything is installed into .venv, in the order that keeps torch
# from being downloaded twice: torch, then the build tools, then this package against that torch.

TORCH ?= torch==2.13.0
CONDITION ?= tanh
RESOLUTION ?= 208

# make's built-in default is g++; the package build uses c++ unless CXX says otherwise.
ifeq ($(origin CXX),default)
CXX := c++
endif
export CXX

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$python && break; done)

BIN := .venv/bin
STAMPS := .venv/stamps
SETTINGS := $(TORCH) FRACTALKERN_CUDA=$(FRACTALKERN_CUDA) $(FRACTALKERN_CUDA_ARCHS)
PACKAGE_SOURCES := $(wildcard csrc/*.* csrc/common/* $(filter-out csrc/tests/%,$(wildcard csrc/*/*)))

.PHONY: help run test python-test bench gpu gpu-sanitize lint sanitize cpp-test install clean FORCE
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

run: install  ## install, then draw a trainability fractal into runs/trainability
	$(BIN)/fractalkern trainability --condition $(CONDITION) --resolution $(RESOLUTION) \
	  --out runs/trainability

test: python-test cpp-test  ## every test, Python and C++

python-test: install
	$(BIN)/pytest --doctest-modules python_tests fractalkern

bench: install $(STAMPS)/bench  ## every kernel beside its peers, into bench/results
	$(BIN)/python -m bench

# On a host with a GPU and its own CUDA build of torch: nothing is installed, no network is touched.
GPU_PYTHON ?= python3
GPU_OPTIONS ?=

gpu:  ## CUDA kernels with the host's own torch: build, test, race, into bench/results
	$(GPU_PYTHON) -m bench.gpu $(GPU_OPTIONS)

gpu-sanitize:  ## the small CUDA tests under compute-sanitizer
	$(GPU_PYTHON) -m bench.gpu --sanitize $(GPU_OPTIONS)

lint: install $(STAMPS)/lint  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.cu csrc/*/*.h)

install: $(STAMPS)/package  ## torch and this package into .venv

clean:  ## removes .venv and everything built
	rm -rf .venv build fractalkern.egg-info fractalkern/_C*.so

# --- installation: each stamp is a step that is done ---------------------------------------------

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "fractalkern needs Python 3.11 or newer and found none;" \
	  "install one or say where it is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@command -v "$(CXX)" > /dev/null || { echo "fractalkern needs a C++ compiler and found no" \
	  "'$(CXX)'; install g++ or say where one is: make CXX=/path/to/g++" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, os, sysconfig; \
	  open(os.path.join(sysconfig.get_path("include"), "Python.h")).close()' 2> /dev/null || { \
	  echo "fractalkern needs Python's venv module and its C headers, and $(PYTHON) lacks one;" \
	  "install python3-venv and python3-dev" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@mkdir -p $(@D) && touch $@

# Changes only when the settings do, and then installs again what depends on them.
$(STAMPS)/settings: $(STAMPS)/venv FORCE
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' > $@

$(STAMPS)/torch: $(STAMPS)/settings
	$(BIN)/pip install '$(TORCH)'
	$(BIN)/pip install 'setuptools>=77' 'pybind11>=2.13' ninja wheel numpy
	@touch $@

# Without MAKEFLAGS: pip closes the job slots of `make -j` before ninja can share them.
$(STAMPS)/package: $(STAMPS)/torch pyproject.toml setup.py $(PACKAGE_SOURCES)
	MAKEFLAGS= $(BIN)/pip install --no-build-isolation -e '.[test]'
	@touch $@

# The extra's packages alone: asking pip for .[bench] would compile the library again.
$(STAMPS)/bench $(STAMPS)/lint: $(STAMPS)/%: $(STAMPS)/package
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["optional-dependencies"]["$*"], sep="\n")' | $(BIN)/pip install -r /dev/stdin
	@touch $@

# --- C++ tests: no Python, no torch ---------------------------------------------------------------

CPP_TESTS := $(notdir $(basename $(wildcard csrc/tests/*_test.cpp)))
CPP_LIBRARY := $(patsubst csrc/%.cpp,%.o,$(wildcard csrc/common/*.cpp csrc/*/*_cpu.cpp))
# The CUDA kernels too, run on the CPU: csrc/tests/cuda_on_host.h.
CPP_LIBRARY += $(patsubst csrc/%.cu,%.cu.o,$(wildcard csrc/*/*_cuda.cu))

# $(1): name, $(2): flags
define cpp_build
build/$(1)/%.o: csrc/%.cpp csrc/compile_flags.txt
	@mkdir -p $$(@D)
	$$(CXX) @csrc/compile_flags.txt $(2) -MMD -MP -DFRACTALKERN_CUDA_ON_HOST -Icsrc -c $$< -o $$@

build/$(1)/%.cu.o: csrc/%.cu csrc/compile_flags.txt
	@mkdir -p $$(@D)
	$$(CXX) @csrc/compile_flags.txt $(2) -MMD -MP -DFRACTALKERN_CUDA_ON_HOST -Icsrc -x c++ -c $$< -o $$@

build/$(1)/%_test: build/$(1)/tests/%_test.o $$(CPP_LIBRARY:%=build/$(1)/%)
	$$(CXX) $(2) $$^ -pthread -o $$@

-include $$(wildcard build/$(1)/*/*.d)
endef

SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all
$(eval $(call cpp_build,cpp,-O3))
$(eval $(call cpp_build,sanitize,-O1 -g -fno-omit-frame-pointer $(SANITIZERS)))
.SECONDARY:

cpp-test: $(CPP_TESTS:%=build/cpp/%)  ## the C++ tests alone, on every instruction set of this CPU
	@for test in $^; do echo $$test; $$test || exit 1; done

sanitize: $(CPP_TESTS:%=build/sanitize/%)  ## the C++ tests under ASAN and UBSAN
	@for test in $^; do echo $$test; $$test || exit 1; done
