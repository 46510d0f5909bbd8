#include "isa.h"
ROPEWAY_TABLE(kernelsPortable, "portable");
