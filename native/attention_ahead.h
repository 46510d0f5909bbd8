// What attention asks the memory for before it is needed.
//
// Blocks lie anywhere, so the hardware cannot guess where the next one is, and within one it follows a page of 4 KiB
// at most. Attention goes by phases: the keys of a tile for all heads of a unit, then its values, then the keys of
// the next. While the lines of one phase are worked on, as many of the next phase are asked for, in the order of
// memory: that keeps the distance at one phase, and the heads of a unit lie side by side.
#pragma once

#include "simd.h"

namespace {

/// Bytes that lie in one piece, and what comes behind them.
struct Stretch {
  const char *from, *end;
  const Stretch* then;
};

/// Where asking has come to. A copy of its own keeps it in registers while a product runs.
struct Ahead {
  const char *at, *end;
  const Stretch* next;

  /// Asks for as many lines as `bytes` fill, in a place where so many are read.
  template <int bytes>
  void ask() {
    constexpr int step = bytes < 64 ? bytes : 64;
    for (int asked = 0; asked < bytes; asked += step) {
      if (at >= end) {
        at = next->from;
        end = next->end;
        next = next->then;
      }
      askForLine(at);
      at += step;
    }
  }
};

/// The stretches of one phase, at most `Most`, behind which one hot line is asked for again and again.
template <int Most>
class Stretches {
 public:
  void clear() {
    count = 0;
    stretch[0] = {hot, hot + sizeof hot, stretch};
    ahead = {hot, hot, stretch};
  }

  void add(const char* from, size_t bytes) {
    stretch[count] = {from, from + bytes, stretch + count + 1};
    count++;
    stretch[count] = {hot, hot + sizeof hot, stretch + count};
  }

  /// Asks for what nobody has asked for yet.
  void rest() {
    const Stretch* last = stretch + count;
    while (ahead.next != last || (ahead.at < ahead.end && ahead.end != last->end)) ahead.ask<64>();
  }

  Ahead ahead;

 private:
  alignas(64) char hot[64];
  Stretch stretch[Most + 1];
  int count;
};

}  // namespace
