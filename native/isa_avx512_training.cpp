#if defined(__x86_64__)
#include "isa_training.h"
ROPEWAY_TRAINING_TABLE(trainingAvx512);
#endif
