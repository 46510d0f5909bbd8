#if defined(__aarch64__)
#include "isa.h"
ROPEWAY_TABLE(kernelsNeon, "neon", &trainingNeon);
#endif
