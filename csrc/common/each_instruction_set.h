// Compiles a kernel body once per instruction set:
//
//   #define FRACTALKERN_BODY "train_sweep/train_sweep_body.h"
//   #include "common/each_instruction_set.h"
//
// Before each inclusion of the body FRACTALKERN_ISA is the namespace to put it in,
// FRACTALKERN_ISA_LEVEL its x86-64 level (0: baseline), FRACTALKERN_ISA_TAG the type that describes
// its registers, and FRACTALKERN_TARGET the attribute that every function of the body must carry.
// GCC lowers vector types function by function, before it inlines: a vector as wide as the
// registers survives only in functions that have the target. The body's own headers must be
// included before, so that nothing of theirs is compiled for a CPU that may not be there.

#define FRACTALKERN_ISA baseline
#define FRACTALKERN_ISA_LEVEL 0
#define FRACTALKERN_ISA_TAG ::fractalkern::Baseline
#define FRACTALKERN_TARGET
#include FRACTALKERN_BODY
#undef FRACTALKERN_ISA
#undef FRACTALKERN_ISA_LEVEL
#undef FRACTALKERN_ISA_TAG
#undef FRACTALKERN_TARGET

#if defined(__x86_64__)
#define FRACTALKERN_ISA x86v3
#define FRACTALKERN_ISA_LEVEL 3
#define FRACTALKERN_ISA_TAG ::fractalkern::X86V3
#define FRACTALKERN_TARGET __attribute__((target("arch=x86-64-v3")))
#include FRACTALKERN_BODY
#undef FRACTALKERN_ISA
#undef FRACTALKERN_ISA_LEVEL
#undef FRACTALKERN_ISA_TAG
#undef FRACTALKERN_TARGET

#define FRACTALKERN_ISA x86v4
#define FRACTALKERN_ISA_LEVEL 4
#define FRACTALKERN_ISA_TAG ::fractalkern::X86V4
#define FRACTALKERN_TARGET __attribute__((target("arch=x86-64-v4")))
#include FRACTALKERN_BODY
#undef FRACTALKERN_ISA
#undef FRACTALKERN_ISA_LEVEL
#undef FRACTALKERN_ISA_TAG
#undef FRACTALKERN_TARGET
#endif

#undef FRACTALKERN_BODY
