// Which blocks work on which of the large matrices. The time of a pass is that of the block with
// most to read, so blocks are dealt out by bytes: a matrix of more than one block's share gets a
// team of its own, the others queue up before single blocks, largest first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace fractalkern {

struct TeamOfBlocks {
  int32_t first, size;
};

// A block with fewer bytes than this waits for others more than it reads.
constexpr int64_t kLeastBytesOfABlock = 32 * 1024;

inline std::vector<TeamOfBlocks> schedule_teams(const std::vector<int64_t>& bytes, int blocks) {
  const size_t count = bytes.size();
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return bytes[a] > bytes[b]; });
  const double share =
      static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), int64_t{0})) / blocks;
  const auto most = [&](size_t i) {
    return static_cast<int32_t>(
        std::clamp<int64_t>(bytes[i] / kLeastBytesOfABlock, 1, std::max(blocks, 1)));
  };
  std::vector<TeamOfBlocks> teams(count);
  size_t alone = 0;  // matrices with a team of their own
  int32_t left = blocks;
  for (; alone < count && left > 0; ++alone) {
    const size_t i = order[alone];
    if (static_cast<double>(bytes[i]) < share) break;
    const auto fair = static_cast<int32_t>(static_cast<double>(bytes[i]) / share);
    teams[i].size = std::clamp<int32_t>(fair, 1, std::min(most(i), left));
    left -= teams[i].size;
  }
  const auto queues =
      static_cast<size_t>(std::min<int64_t>(left, static_cast<int64_t>(count - alone)));
  left -= static_cast<int32_t>(queues);
  // What is left over goes where a block has most to read.
  while (left > 0) {
    size_t busiest = count;
    for (size_t k = 0; k < alone; ++k) {
      const size_t i = order[k];
      if (teams[i].size >= most(i)) continue;
      if (busiest == count || bytes[i] / teams[i].size > bytes[busiest] / teams[busiest].size)
        busiest = i;
    }
    if (busiest == count) break;
    ++teams[busiest].size;
    --left;
  }
  int32_t first = 0;
  for (size_t k = 0; k < alone; ++k) {
    teams[order[k]].first = first;
    first += teams[order[k]].size;
  }
  // Without a free block, behind the last team's matrix.
  std::vector<int64_t> loads(std::max<size_t>(queues, 1), 0);
  for (size_t k = alone; k < count; ++k) {
    const auto queue = std::min_element(loads.begin(), loads.end()) - loads.begin();
    loads[static_cast<size_t>(queue)] += bytes[order[k]];
    teams[order[k]] = queues == 0 ? teams[order[alone - 1]]
                                  : TeamOfBlocks{first + static_cast<int32_t>(queue), 1};
  }
  return teams;
}

}  // namespace fractalkern
