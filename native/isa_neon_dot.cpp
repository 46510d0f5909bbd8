#if defined(__aarch64__)
#include "isa.h"
ROPEWAY_TABLE(kernelsNeonDot, "neon", &trainingNeonDot);
#endif
