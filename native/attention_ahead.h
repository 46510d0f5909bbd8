// What attention asks the memory for before it is needed.
//
// Blocks lie anywhere, so the hardware cannot guess where the next one is. Attention goes by phases: the keys of a tile
// for all heads of a unit, then its values, then the keys of the next tile. While a phase works, it asks for as many
// lines of the phase behind it, in the order of use, which keeps the distance at one phase. A core drops what it is
// asked for while its queue to the memory is full, without a word. Code that is quicker than the memory therefore asks
// for every line once more shortly before it uses it: that costs little where it has come, and a miss a whole latency.
// Vectors have all lines in the first cache (3 to 8 % quicker on a Zen 5 than in the second), tiles have them in the second.
//
// Where a page lies must be found before its first line can be, by several reads one after the other (in a virtual machine up
// to 24), and pages of blocks that lie anywhere are not neighbours. So one line of each is asked for a phase earlier still.
#pragma once

#include "simd.h"

namespace {

/// Bytes that lie in one piece, and what is used behind them.
struct Stretch {
  const char *from, *end;
  const Stretch* then;
};

/// A place in a list of stretches, which ends in one that leads to itself.
struct Cursor {
  const char *at, *end;
  const Stretch* next;

  __attribute__((always_inline)) void turn() {
    at = next->from;
    end = next->end;
    next = next->then;
  }

  /// Asks for as many lines as `bytes` fill, in a place where so many are read; `first` for the first cache.
  template <int bytes, bool first>
  __attribute__((always_inline)) void ask() {
    if (at >= end) turn();
    if (bytes >= 64 || (reinterpret_cast<uintptr_t>(at) & (64 - bytes)) == 0)
      for (int line = 0; line < bytes; line += 64) first ? askForLineNow(at + line) : askForLine(at + line);
    at += bytes;
  }
};

/// Copies of it stay in registers while a product runs.
struct Ahead {
  Cursor far, near;

  template <int bytes, bool twice, bool first = true>
  __attribute__((always_inline)) void ask() {
    far.ask<bytes, first>();
    if (twice) near.ask<bytes, true>();
  }
};

/// The stretches of this phase and of the next, at most `most` of each.
template <int most>
class Phases {
 public:
  Ahead ahead;

  Phases() { begin(0), begin(0); }

  /// What was listed for the next phase is now, and the next is empty. Lines are asked for again `shortly` bytes ahead.
  void begin(size_t shortly) {
    Stretch* now = list[side];
    Stretch* behind = list[side ^= 1];
    if (count > 0) now[count - 1].then = behind;
    ahead.near = {hot, hot, count > 0 ? now : behind};
    for (size_t left = shortly; ahead.near.next != behind && left > 0;) {
      ahead.near.turn();
      size_t bytes = ahead.near.end - ahead.near.at, skipped = bytes < left ? bytes : left;
      ahead.near.at += skipped;
      left -= skipped;
    }
    ahead.far = {hot, hot, behind};
    count = 0;
    closeList();
  }

  /// Adds to the next phase.
  void add(const char* from, size_t bytes) {
    list[side][count] = {from, from + bytes, list[side] + count + 1};
    count++;
    closeList();
  }

  /// Asks for what of the next phase nobody has asked for.
  void finish() {
    const Stretch* last = list[side] + count;
    while (ahead.far.next != last || (ahead.far.at < ahead.far.end && ahead.far.end != last->end)) ahead.far.ask<64, false>();
  }

 private:
  alignas(64) char hot[64];  // is asked for when there is nothing else
  Stretch list[2][most + 1];
  int side = 0, count = 0;

  void closeList() { list[side][count] = {hot, hot + sizeof hot, list[side] + count}; }
};

}  // namespace
