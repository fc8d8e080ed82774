// A lane draws one block of four words, which decide on four elements.
#include <algorithm>
#include <cstring>
#include <utility>

#include "common/instruction_set.h"
#include "common/simd.h"
#include "dropout_mask/dropout_mask.h"

namespace fractalkern {

// Blocks [begin, end) of a row; `begin` is a multiple of the lanes of the widest vector.
struct MaskTask {
  const DropoutMask& mask;
  int64_t row, begin, end;
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "dropout_mask/dropout_mask_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {
namespace {

constexpr EntryPoints<void(const MaskTask&)> kMaskBlocks = FRACTALKERN_TABLE(mask_blocks);

constexpr int64_t kBlocksPerTask = 1 << 13;

}  // namespace

void dropout_mask_cpu(const DropoutMask& mask, const Parallel& parallel) {
  const int64_t blocks = (mask.count + 3) / 4;
  const int64_t parts = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
  auto* const body = kMaskBlocks.active();
  parallel.for_each(mask.rows * parts, mask.rows * mask.count, [&](int64_t i) {
    const int64_t begin = i % parts * kBlocksPerTask;
    body({mask, i / parts, begin, std::min(begin + kBlocksPerTask, blocks)});
  });
}

}  // namespace fractalkern
