#if defined(__x86_64__)
#include "isa.h"
ROPEWAY_TABLE(kernelsAvx512, "avx512", &trainingAvx512);
#endif
