#include "common/instruction_set.h"

#include <atomic>
#include <stdexcept>

namespace fractalkern {
namespace {

bool cpu_supports(int index) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (index == 1) return __builtin_cpu_supports("x86-64-v3");
  if (index == 2) return __builtin_cpu_supports("x86-64-v4");
#endif
  return index == 0;
}

int best_index() {
  int best = 0;
  for (int i = 0; i < static_cast<int>(compiled_instruction_sets().size()); ++i)
    if (cpu_supports(i)) best = i;
  return best;
}

std::atomic<int>& active_index() {
  static std::atomic<int> index{best_index()};
  return index;
}

std::string join(const std::vector<std::string>& names) {
  std::string joined;
  for (const auto& name : names) joined += (joined.empty() ? "" : ", ") + name;
  return joined;
}

}  // namespace

int active_instruction_set() { return active_index().load(std::memory_order_relaxed); }

const std::vector<std::string>& compiled_instruction_sets() {
#if defined(__x86_64__)
  static const std::vector<std::string> names = {"baseline", "x86-64-v3", "x86-64-v4"};
#else
  static const std::vector<std::string> names = {"baseline"};
#endif
  return names;
}

std::vector<std::string> supported_instruction_sets() {
  std::vector<std::string> names;
  for (int i = 0; i < static_cast<int>(compiled_instruction_sets().size()); ++i)
    if (cpu_supports(i)) names.push_back(compiled_instruction_sets()[i]);
  return names;
}

void set_instruction_set(const std::string& name) {
  const auto& names = compiled_instruction_sets();
  for (int i = 0; i < static_cast<int>(names.size()); ++i) {
    if (names[i] != name) continue;
    if (!cpu_supports(i))
      throw std::invalid_argument("set_instruction_set: this CPU lacks '" + name +
                                  "'; it supports " + join(supported_instruction_sets()));
    active_index().store(i, std::memory_order_relaxed);
    return;
  }
  throw std::invalid_argument("set_instruction_set: name must be one of " + join(names) +
                              ", got '" + name + "'");
}

}  // namespace fractalkern
