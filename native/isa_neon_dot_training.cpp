#if defined(__aarch64__)
#include "isa_training.h"
ROPEWAY_TRAINING_TABLE(trainingNeonDot);
#endif
