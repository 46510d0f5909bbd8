#if defined(__x86_64__)
#include "isa.h"
ROPEWAY_TABLE(kernelsAvx2, "avx2", &trainingAvx2);
#endif
