#define ROPEWAY_EMULATE_TILES
#include "isa_amx.cpp"
