// Which compiled variant of a kernel body runs.
//
// A kernel body is one always-inline function template over an `Isa` tag below. It is compiled
// once per instruction set, inside an entry point that carries the target attribute, and called
// through an EntryPoints table that is indexed at call time. (`target_clones` would choose behind
// an ifunc that no test can override.)
#pragma once

#include <string>
#include <vector>

#define FRACTALKERN_INLINE inline __attribute__((always_inline))

namespace fractalkern {

// The width of the vectors that a body should use, in bytes, and how many registers hold one.
struct Baseline {
  static constexpr int kVectorBytes = 16;
  static constexpr int kRegisters = 16;
};
#if defined(__x86_64__)
struct X86V3 {
  static constexpr int kVectorBytes = 32;
  static constexpr int kRegisters = 16;
};
struct X86V4 {
  static constexpr int kVectorBytes = 64;
  static constexpr int kRegisters = 32;
};
#define FRACTALKERN_TARGET_X86V3 __attribute__((target("arch=x86-64-v3")))
#define FRACTALKERN_TARGET_X86V4 __attribute__((target("arch=x86-64-v4")))
#endif

// Index into every EntryPoints table, in ascending order of capability.
int active_instruction_set();

// Names in table order: "baseline", then "x86-64-v3" and "x86-64-v4" on x86.
const std::vector<std::string>& compiled_instruction_sets();

// Those of the above that this CPU can run.
std::vector<std::string> supported_instruction_sets();

// Selects one by name for all later calls of this process. Throws std::invalid_argument for a name
// that was not compiled in or that the CPU lacks.
void set_instruction_set(const std::string& name);

template <class Function>
struct EntryPoints {
#if defined(__x86_64__)
  Function* table[3];
#else
  Function* table[1];
#endif
  Function* active() const { return table[active_instruction_set()]; }
};

}  // namespace fractalkern

// The entry points of one function that every instruction set's namespace defines.
#if defined(__x86_64__)
#define FRACTALKERN_TABLE(function)                        \
  {                                                        \
    {                                                      \
      baseline::function, x86v3::function, x86v4::function \
    }                                                      \
  }
#else
#define FRACTALKERN_TABLE(function) \
  {                                 \
    {                               \
      baseline::function            \
    }                               \
  }
#endif

// Defines `NAME`, the table of entry points of the body template `BODY<Isa>(const ARGS&)`.
#if defined(__x86_64__)
#define FRACTALKERN_ENTRY_POINTS(NAME, BODY, ARGS)                                       \
  static void NAME##_baseline(const ARGS& args) { BODY<::fractalkern::Baseline>(args); } \
  FRACTALKERN_TARGET_X86V3 static void NAME##_x86v3(const ARGS& args) {                  \
    BODY<::fractalkern::X86V3>(args);                                                    \
  }                                                                                      \
  FRACTALKERN_TARGET_X86V4 static void NAME##_x86v4(const ARGS& args) {                  \
    BODY<::fractalkern::X86V4>(args);                                                    \
  }                                                                                      \
  static constexpr ::fractalkern::EntryPoints<void(const ARGS&)> NAME = {                \
      {NAME##_baseline, NAME##_x86v3, NAME##_x86v4}};
#else
#define FRACTALKERN_ENTRY_POINTS(NAME, BODY, ARGS)                                       \
  static void NAME##_baseline(const ARGS& args) { BODY<::fractalkern::Baseline>(args); } \
  static constexpr ::fractalkern::EntryPoints<void(const ARGS&)> NAME = {{NAME##_baseline}};
#endif
