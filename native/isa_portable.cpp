#define ROPEWAY_PORTABLE
#include "isa.h"
ROPEWAY_TABLE(kernelsPortable, "portable", &trainingPortable);
